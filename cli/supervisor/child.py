"""The supervisor's children: each leads a process group of its own, and dies with the supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from rumormill.cli.supervisor import launch

PR_SET_CHILD_SUBREAPER: Final = 36
KILL_SECONDS: Final = 2.0
"""Seconds that the supervisor waits at its end for processes it has killed. Only one stuck in the kernel takes as
long."""


class Child:
    """One running child process.

    Its process group is its own, so that Ctrl-C reaches only the supervisor: it drains before the worker is told.
    """

    def __init__(
        self, command: Sequence[str], *, death_signal: signal.Signals, descriptors: Mapping[int, int] | None = None
    ) -> None:
        """Starts it. It gets ``death_signal`` when the supervisor dies. ``descriptors`` maps its descriptor numbers to
        ours; standard descriptors that are not in it are inherited."""
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(death_signal))]
        self._started_at = time.monotonic()
        self.pid = os.posix_spawn(
            sys.executable,
            [*launcher, *command],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in (descriptors or {}).items()],
            setpgroup=0,
            setsigmask=[],
        )

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_at

    def signal(self, number: int) -> None:
        """Send a signal to the child itself. Until it is reaped, its id is its own."""
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kill the child and whatever it has started in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def ended_child() -> int | None:
    """The id of a child that has ended and is not reaped yet; None if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def reap(pid: int) -> int:
    """Reap an ended child. Returns its exit code, or -n if signal n has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def become_subreaper() -> None:
    """Orphans among the descendants become our children, as they are those of process 1 in a container."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants() -> None:
    """Kill the children that are left, and theirs as they become ours: daemons of the worker among them."""
    until = time.monotonic() + KILL_SECONDS
    while (pids := _children()) and time.monotonic() < until:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        while (ended := ended_child()) is not None:
            reap(ended)
        time.sleep(0.005)


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:  # the kernel has no CONFIG_PROC_CHILDREN
        return []
