"""Watches the worker's process. The kernel reports its exit at once (pidfd).

A process id is valid for one run of a worker. After a restart the process is found again: a PID file names it (read
each second, and when the process has exited), or it is the process that listens at the worker's URL.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import trio

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_check import is_local
from rumormill.sidecar.settings_values import MAX_PID, HostPort
from rumormill.sidecar.socket_owner import (
    OwnerNotFound,
    ResolvedEndpoint,
    SocketOwner,
    find_owner,
    resolve,
    started_at,
    still_listening,
)

POLL_SECONDS: Final = 1.0
"""Between reads of the PID file or of the listening sockets. With a larger value a restart is noticed later; until then
only the worker check sees it."""
MAX_BYTES: Final = 64
START_TOLERANCE_SECONDS: Final = 2.0
"""How much later than its PID file a process may seem to have started. Larger than clock ticks and file times need; a
reused process id that young would be taken for the worker."""


@dataclass(frozen=True, slots=True)
class ProcessSource:
    """How the worker's process is found. With nothing set, no process is watched."""

    pid: int | None = None
    file: Path | None = None
    listens_on: HostPort | None = None
    """Watch the process that listens here; after the process ``pid``, if that is given too."""

    @classmethod
    def of(cls, settings: Settings) -> ProcessSource:
        if settings.worker_pid is None:
            return cls(file=settings.worker_pid_file)
        return cls(settings.worker_pid.number, None, settings.worker.endpoint if is_local(settings.worker) else None)


class _PidFile(NamedTuple):
    """The content of a PID file, with the file's time and inode to tell two versions apart."""

    pid: int
    mtime_ns: int
    inode: int


def open_process(pid: int) -> int:
    """A descriptor that becomes readable when the process exits. Raises ProcessLookupError, PermissionError."""
    return os.pidfd_open(pid)


def check_worker_pid(settings: Settings) -> None:
    """Raises :class:`SettingsError` if --worker-pid names no process. A PID file may appear later."""
    if settings.worker_pid is None or settings.worker_pid.number is None:
        return
    try:
        os.close(open_process(settings.worker_pid.number))
    except OSError as error:
        raise SettingsError(
            f"--worker-pid {settings.worker_pid}: {os.strerror(error.errno or 0).lower()}",
            "give the process id of the running worker",
        ) from None


class WorkerProcess:
    """Watches the worker's process, if one is configured.

    ``on_start`` is called when a process is watched, ``on_end`` when it has exited. ``on_event`` gets a text for the
    log at each change.
    """

    def __init__(
        self,
        source: ProcessSource,
        *,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._source = source
        self._on_start = on_start
        self._on_end = on_end
        self._on_event = on_event
        self._pid: int | None = None
        self._pidfd: int | None = None
        """Of the watched process; None while no process is watched."""
        self._exited_source: object = None
        """The process id or file content whose process has exited. It is not watched again."""
        self._round_scope = trio.CancelScope()
        self.state_text = ""
        """What is watched now, for the status; empty if no process is configured."""

    def set_source(self, source: ProcessSource) -> None:
        """Watch this process instead."""
        if source != self._source:
            self._source = source
            self._round_scope.cancel()

    async def run(self) -> None:
        """Watch forever; restarts when :meth:`set_source` has changed the source."""
        while True:
            with trio.CancelScope() as self._round_scope:
                await self._watch(self._source)
                await trio.sleep_forever()
            self._close_pidfd()
            self._exited_source, self.state_text = None, ""

    async def _watch(self, source: ProcessSource) -> None:
        try:
            if source.file is not None:
                await self._watch_file(source.file)
            if source.pid is not None:
                await self._watch_pid(source.pid, source.listens_on)
            if source.listens_on is not None:
                await self._watch_listener(source.listens_on)
        finally:
            self._close_pidfd()

    async def _watch_pid(self, pid: int, then: HostPort | None) -> None:
        self._start_watching(pid, pid)
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
            self._ended(
                f"waiting for another to listen on {then}"
                if then
                else "it is no longer watched; use --worker-pid-file to follow a restart"
            )

    async def _watch_file(self, path: Path) -> None:
        while True:
            pid_file = await trio.to_thread.run_sync(_read_pid_file, path, abandon_on_cancel=True)
            if pid_file is not None and pid_file.pid != self._pid and pid_file != self._exited_source:
                self._start_watching(pid_file.pid, pid_file)
            if self._pidfd is None:
                self._report(self.state_text or f"waiting for {path} to name a process")
                await trio.sleep(POLL_SECONDS)
                continue
            with trio.move_on_after(POLL_SECONDS):
                await trio.lowlevel.wait_readable(self._pidfd)
                self._ended(f"waiting for {path} to name another")
                self._exited_source = pid_file

    async def _watch_listener(self, endpoint: HostPort) -> None:
        unseen: frozenset[int] = frozenset()
        while True:
            place = await trio.to_thread.run_sync(resolve, endpoint, abandon_on_cancel=True)
            try:  # not abandoned: nobody would close the descriptor
                owner = await trio.to_thread.run_sync(find_owner, place, unseen)
            except OwnerNotFound as error:
                unseen = error.inodes
                self._report(str(error) if unseen or not self._describes_end else self.state_text)
                await trio.sleep(POLL_SECONDS)
            else:
                unseen = frozenset()
                await self._watch_owner(owner, place)

    async def _watch_owner(self, owner: SocketOwner, place: ResolvedEndpoint) -> None:
        """Watch until this process has exited. If another process holds the same socket (a child, or a sibling), the
        worker may still serve: the worker check decides, not this exit."""
        self._close_pidfd()
        self._pid, self._pidfd = owner.pid, owner.pidfd
        self._on_start()
        self._report(f"process {owner.pid} is watched: it listens on {place}")
        await trio.lowlevel.wait_readable(owner.pidfd)
        if await trio.to_thread.run_sync(still_listening, owner.inodes, place):
            self._close_pidfd()
            self._report(f"process {owner.pid} has ended, but another one listens on the same socket")
        else:
            self._ended(f"waiting for another to listen on {place}")

    @property
    def _describes_end(self) -> bool:
        return "has ended" in self.state_text

    def _start_watching(self, pid: int, source: int | _PidFile) -> None:
        """Watch this process from now on, if it exists and can be the worker."""
        self._close_pidfd()
        try:
            self._pidfd = open_process(pid)
        except OSError as error:
            self._exited_source = source
            self._report(f"process {pid} cannot be watched: {os.strerror(error.errno or 0).lower()}")
            return
        if isinstance(source, _PidFile) and _is_younger(source):
            self._close_pidfd()
            self._exited_source = source
            self._report(f"process {pid} is not the worker: it started after the PID file was written")
            return
        self._pid = pid
        self._on_start()
        self._report(f"process {pid} is watched")

    def _ended(self, next_step: str) -> None:
        """The watched process has exited."""
        pid = self._pid
        self._close_pidfd()
        self._on_end()
        self._report(f"process {pid} has ended; {next_step}")

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pid = self._pidfd = None

    def _report(self, text: str) -> None:
        if text != self.state_text:
            self.state_text = text
            self._on_event(text)


def _is_younger(file: _PidFile) -> bool:
    """Whether the process with this id started after the file was written: its id has been reused."""
    started = started_at(file.pid)
    return started is not None and started > file.mtime_ns / 1e9 + START_TOLERANCE_SECONDS


def _read_pid_file(path: Path) -> _PidFile | None:
    """None if the file holds no process id."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            pid = int(file.read(MAX_BYTES))
    except (OSError, ValueError):
        return None
    return _PidFile(pid, found.st_mtime_ns, found.st_ino) if 0 < pid < MAX_PID else None
