"""The requests during a run: those of the demo's caller, or of a program of the user.

A program prints a line of JSON at the end of each request: {"seconds": 0.012}, or {"seconds": 1.5, "error": "why"}.
It is ended with SIGTERM. It should send on time, whether or not earlier requests are answered (open loop).
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import msgspec
import trio

from rumormill.cli.chaos.schedule import HINT
from rumormill.cli.demo.processes import fill_in
from rumormill.cli.demo.request_log import RequestOutcome
from rumormill.cli.exit_codes import BadRequest, CliError

LONGEST_LINE = 1 << 16
END_SECONDS = 10.0


class TrafficEnded(CliError):
    """The program that sends the requests for `chaos run` ended by itself, or printed something other than outcomes."""


class ChaosTraffic(Protocol):
    """What sends requests until told to finish."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...

    async def finish(self) -> None: ...


class RequestLine(msgspec.Struct):
    """What a program says of one request."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]
    error: str | None = None


class CommandTraffic:
    """A program of the user. Each outcome goes to ``record``."""

    def __init__(self, command: str, urls: Sequence[str], record: Callable[[RequestOutcome], None]) -> None:
        """Raises :class:`BadRequest`."""
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise BadRequest(f"the command {command!r} cannot be split into words: {error}", HINT) from None
        self._argv = [fill_in(word, {"{sidecars}": ",".join(urls)}) for word in words]
        if not self._argv:
            raise BadRequest("the command of the traffic is empty", HINT)
        self._record = record
        self._ending = False
        self._process: trio.Process | None = None
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reports ``started`` at the first outcome. Raises :class:`TrafficEnded`."""
        try:
            process = await trio.lowlevel.open_process(self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError as error:
            raise TrafficEnded(f"{self._argv[0]}: {error.strerror}", "give another --traffic") from None
        self._process = process
        try:
            await self._read(process, task_status)
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            self._ended.set()
        if not self._ending:
            raise TrafficEnded(f"{self._argv[0]} has ended with code {process.returncode}", "it must run until SIGTERM")

    async def _read(self, process: trio.Process, task_status: trio.TaskStatus[None]) -> None:
        assert process.stdout is not None  # noqa: S101  for the type checker
        rest, started = b"", False
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LONGEST_LINE:
                raise TrafficEnded(f"{self._argv[0]} says a line without an end", "one line of JSON per request")
            now = time.monotonic()
            for line in filter(None, lines):
                self._record(self._outcome(line, now))
                if not started:
                    started = True
                    task_status.started()

    def _outcome(self, line: bytes, now: float) -> RequestOutcome:
        try:
            said = msgspec.json.decode(line, type=RequestLine)
        except msgspec.DecodeError as error:
            shown = line[:100].decode(errors="replace")
            raise TrafficEnded(f"{self._argv[0]} says {shown!r}: {error}", 'it should be {"seconds": 0.012}') from None
        return RequestOutcome(now - said.seconds, now, None, said.error)

    async def finish(self) -> None:
        """End the program, after the outcomes it still says."""
        self._ending = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(END_SECONDS) as waited:
            await self._ended.wait()
        if waited.cancelled_caught and self._process is not None:
            self._process.kill()
            await self._ended.wait()
