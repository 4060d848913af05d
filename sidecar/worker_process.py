"""Watches the worker's process. The kernel reports its exit at once (pidfd).

A process id is valid for one run of a worker. If a supervisor restarts the worker, a PID file names the current
process. The file is read each second, and when the process has exited.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.settings import Settings

POLL_SECONDS: Final = 1.0
"""Between reads of the PID file. With a larger value a restart is noticed later; until then only the worker check sees
it."""
MAX_BYTES: Final = 64
ProcessSource = tuple[int | None, Path | None]
"""A process id, or a PID file."""


def open_process(pid: int) -> int:
    """A descriptor that becomes readable when the process exits. Raises ProcessLookupError, PermissionError."""
    return os.pidfd_open(pid)


def check_worker_pid(settings: Settings) -> None:
    """Raises :class:`SettingsError` if --worker-pid names no process. A PID file may appear later."""
    if settings.worker_pid is None:
        return
    try:
        os.close(open_process(settings.worker_pid))
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
                await self._watch(*self._source)
                await trio.sleep_forever()
            self._close_pidfd()
            self._exited_source, self.state_text = None, ""

    async def _watch(self, pid: int | None, path: Path | None) -> None:
        try:
            if path is not None:
                await self._watch_file(path)
            elif pid is not None:
                self._start_watching(pid, pid)
                await self._wait_for_exit(
                    f"process {pid} has ended and is no longer watched; use --worker-pid-file to follow a restart"
                )
        finally:
            self._close_pidfd()

    async def _watch_file(self, path: Path) -> None:
        while True:
            pid_file = await trio.to_thread.run_sync(_read_pid_file, path, abandon_on_cancel=True)
            if pid_file is not None and pid_file[0] != self._pid and pid_file != self._exited_source:
                self._start_watching(pid_file[0], pid_file)
            if self._pidfd is None:
                self._report(self.state_text or f"waiting for {path} to name a process")
                await trio.sleep(POLL_SECONDS)
                continue
            with trio.move_on_after(POLL_SECONDS):
                await self._wait_for_exit(f"process {self._pid} has ended; waiting for {path} to name another")
                self._exited_source = pid_file

    def _start_watching(self, pid: int, source: object) -> None:
        """Watch this process from now on, if it exists."""
        self._close_pidfd()
        try:
            self._pidfd = open_process(pid)
        except OSError as error:
            self._exited_source = source
            self._report(f"process {pid} cannot be watched: {os.strerror(error.errno or 0).lower()}")
            return
        self._pid = pid
        self._on_start()
        self._report(f"process {pid} is watched")

    async def _wait_for_exit(self, text: str) -> None:
        if self._pidfd is None:
            return
        await trio.lowlevel.wait_readable(self._pidfd)
        self._close_pidfd()
        self._on_end()
        self._report(text)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pid = self._pidfd = None

    def _report(self, text: str) -> None:
        if text != self.state_text:
            self.state_text = text
            self._on_event(text)


def _read_pid_file(path: Path) -> tuple[int, int, int] | None:
    """The process id, with the file's time and inode to tell two versions apart; None if the file holds no id."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            pid = int(file.read(MAX_BYTES))
    except (OSError, ValueError):
        return None
    return (pid, found.st_mtime_ns, found.st_ino) if 0 < pid < 1 << 22 else None
