"""Runs the operator's commands when the announced state of the worker changes (``--on-critical CMD``).

A change only puts its commands into a queue, so a command never delays gossip, the worker check or another command's
start. At most :data:`MAX_RUNNING` run at once; the next ones start in order. A command that takes too long is killed.
What it did is one line of the log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from rumormill.sidecar.bounded_command import BoundedCommand
from rumormill.sidecar.log import Log, monotonic
from rumormill.sidecar.settings import Settings

MAX_RUNNING: Final = 4
"""Commands that run at once. With more, hanging commands use more memory; with fewer, they delay the next ones."""
MAX_WAITING: Final = 32
"""Commands that wait for one of those to end. Further ones are dropped, and logged."""
MAX_OUTPUT_BYTES: Final = 2048
"""Bytes of a command's output that the log gets."""
SHELL: Final = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class StateChange:
    """The worker's announced state has changed."""

    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Job:
    """One command to run for one change."""

    setting: str
    command: str
    timeout: float
    environment: dict[str, str]


class StateCommands:
    """Runs commands for changes. :meth:`changed` never blocks."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._send, self._receive = trio.open_memory_channel[_Job](MAX_WAITING)
        self._slots = trio.Semaphore(MAX_RUNNING)

    def configure(self, settings: Settings) -> None:
        """Use these commands from now on."""
        self._settings = settings

    def changed(self, change: StateChange) -> None:
        """Queue the commands for this change."""
        for job in self._jobs(change):
            try:
                self._send.send_nowait(job)
            except trio.WouldBlock:
                self._log.error("command", setting=job.setting, text=f"not run: {MAX_WAITING} others wait already")

    async def run(self) -> None:
        """Run commands forever. Cancelling kills those that run."""
        async with trio.open_nursery() as nursery:
            async for job in self._receive:
                await self._slots.acquire()
                nursery.start_soon(self._run, job)

    async def _run(self, job: _Job) -> None:
        command = BoundedCommand((*SHELL, job.command), job.environment, MAX_OUTPUT_BYTES)
        began, trouble = trio.current_time(), ""
        with trio.move_on_after(job.timeout) as scope:
            try:
                await command.run()
            except OSError as error:
                trouble = f"it cannot be started: {error.strerror or error}"
        self._slots.release()
        if scope.cancelled_caught:
            trouble = f"killed: it had not ended after {job.timeout:g} s; --command-timeout sets the limit"
        log = self._log.warning if trouble or command.exit_code else self._log.info
        log(
            "command",
            monotonic=monotonic(),
            setting=job.setting,
            state=job.environment["RUMORMILL_STATE"],
            exit_code=command.exit_code,
            seconds=round(trio.current_time() - began, 3),
            output=command.output.decode("utf-8", "replace").strip(),
            text=trouble or "it has ended",
        )

    def _jobs(self, change: StateChange) -> Iterator[_Job]:
        for setting in (f"on-{change.new}", "on-change"):
            command = getattr(self._settings, setting.replace("-", "_"), "")
            if command:
                yield _Job(setting, command, self._settings.command_timeout, self._environment(change))

    def _environment(self, change: StateChange) -> dict[str, str]:
        settings = self._settings
        ours = {key: value for key, value in os.environ.items() if not key.startswith("RUMORMILL_")}
        return ours | {
            "RUMORMILL_STATE": change.new,
            "RUMORMILL_OLD_STATE": change.old,
            "RUMORMILL_REASON": change.reason,
            "RUMORMILL_TIME": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "RUMORMILL_NAME": settings.name,
            "RUMORMILL_CLUSTER": settings.cluster,
            "RUMORMILL_SERVICE": settings.service,
            "RUMORMILL_ZONE": settings.zone,
            "RUMORMILL_RELEASE": settings.release,
            "RUMORMILL_WORKER": settings.worker_url,
        }
