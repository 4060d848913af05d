"""Kills the worker's processes if the supervisor is killed (``kill -9``, out of memory) and cannot do it.

The kernel's PR_SET_PDEATHSIG reaches only direct children, but many engines run several processes. So the supervisor
forks a process that waits for the end of a pipe: the kernel closes it however the supervisor ends. Then every process
group that is noted is killed.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NoReturn


class OrphanReaper:
    """The supervisor's end of the pipe. Create it before any thread is started, because it forks."""

    def __init__(self) -> None:
        reading, self._pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _reap(reading)
        os.close(reading)

    def add(self, group: int) -> None:
        """Kill this process group if the supervisor dies."""
        self._tell(group)

    def remove(self, group: int) -> None:
        """The group has ended; its id may soon be another's."""
        self._tell(-group)

    def _tell(self, number: int) -> None:
        with suppress(BrokenPipeError):
            os.write(self._pipe, b"%d\n" % number)


def _reap(reading: int) -> NoReturn:
    """The forked process: read group ids (negative: forget it) to the end of the pipe."""
    try:
        os.setsid()  # a signal to the supervisor's group is not for this process
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(stop, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):  # so that whoever reads the supervisor's output sees its end
            os.dup2(null, descriptor)
        groups: set[int] = set()
        with os.fdopen(reading, "rb", buffering=0) as lines:
            for line in lines:
                number = int(line)
                groups.discard(-number)
                if number > 0:
                    groups.add(number)
        for group in groups:
            with suppress(OSError):
                os.killpg(group, signal.SIGKILL)
    finally:
        os._exit(0)
