"""Runs a command of the operator's so that it can harm nobody: it neither blocks the agent nor outlives its time.

The command has a session of its own, nothing on stdin, and a pipe for stdout and stderr that is read to the end. Only
the first bytes of its output are kept. When it has ended, or the caller cancels, whatever is left of its process group
is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

import trio

KILL_SECONDS = 1.0
"""How long a killed process may take to end before it is left behind."""
LAST_OUTPUT_SECONDS = 0.05
"""How long after the end of the command its output is still read. It is in the pipe by then."""


class BoundedCommand:
    """One run of one command. Set a deadline around :meth:`run`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], max_output: int) -> None:
        """``max_output`` in bytes; what it prints beyond that is read and dropped."""
        self._command = list(command)
        self._environment = dict(environment)
        self._max_output = max_output
        self._process: trio.Process | None = None
        self.output = bytearray()

    @property
    def running(self) -> bool:
        """Whether its process exists. After :meth:`run` that is a process that hangs in the kernel."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """-n if signal n has ended it; None if it has not ended."""
        return None if self._process is None else self._process.returncode

    async def run(self) -> bytes:
        """Run it to its end. Returns what it printed. Raises OSError if it cannot be started."""
        self._process = await trio.lowlevel.open_process(  # starts it in a thread
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        try:
            await self._read_to_end(self._process)
        finally:
            await self._end(self._process)
        return bytes(self.output)

    async def _read_to_end(self, process: trio.Process) -> None:
        """Read until the command ends, without reaping it. A child may hold the pipe open for longer."""
        descriptor = os.pidfd_open(process.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, process.stdout)
                await trio.lowlevel.wait_readable(descriptor)
                nursery.cancel_scope.deadline = trio.current_time() + LAST_OUTPUT_SECONDS
        finally:
            os.close(descriptor)

    async def _read(self, stdout: trio.abc.ReceiveStream | None) -> None:
        assert stdout is not None  # noqa: S101  for the type checker
        while data := await stdout.receive_some():
            self.output.extend(data[: self._max_output - len(self.output)])

    async def _end(self, process: trio.Process) -> None:
        """Kill all of its process group, and reap it. What hangs in the kernel (a GPU tool may) is left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # the process is not reaped yet, so this is still its number
        with trio.move_on_after(KILL_SECONDS, shield=True):
            await process.wait()
        if process.stdout is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(process.stdout)
