"""Which process the worker is, and its end, which the kernel tells at once (pidfd).

A process id is good for one life of a worker. Where a supervisor restarts it, a file says who it is now: that is read
each second, and when the process has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.settings import Settings

LOOK_SECONDS: Final = 1.0
"""Between looks at the file. More: a restart is noticed later, and told by the worker check alone until then."""
MAX_BYTES: Final = 64
Source = tuple[int | None, Path | None]
"""A process id, or a file that holds one."""


def open_process(pid: int) -> int:
    """A descriptor that becomes readable when the process ends. Raises ProcessLookupError, PermissionError."""
    return os.pidfd_open(pid)


def check_process(settings: Settings) -> None:
    """Raises :class:`SettingsError` where the process to watch is none. A file may come later."""
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
    """Watches the worker's process, if it is known. ``on_start`` and ``on_end`` are called when one begins to be
    watched and when it has ended; ``on_event`` gets the words for the log."""

    def __init__(
        self,
        source: Source,
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
        """Of the process that is watched; None while there is none."""
        self._ended: object = None
        """What named the process that has ended: it names nobody any more."""
        self._round = trio.CancelScope()
        self.about = ""
        """What is watched, in words; empty where nothing was to be."""

    def follow(self, source: Source) -> None:
        """Watch this one instead."""
        if source != self._source:
            self._source = source
            self._round.cancel()

    async def run(self) -> None:
        """Watch for ever, whoever is to be watched."""
        while True:
            with trio.CancelScope() as self._round:
                await self._watch(*self._source)
                await trio.sleep_forever()
            self._let_go()
            self._ended, self.about = None, ""

    async def _watch(self, pid: int | None, path: Path | None) -> None:
        try:
            if path is not None:
                await self._watch_file(path)
            elif pid is not None:
                self._begin(pid, pid)
                await self._until_end(
                    f"process {pid} has ended and is watched no longer; --worker-pid-file would follow a restart"
                )
        finally:
            self._let_go()

    async def _watch_file(self, path: Path) -> None:
        while True:
            named = await trio.to_thread.run_sync(_read_pid_file, path, abandon_on_cancel=True)
            if named is not None and named[0] != self._pid and named != self._ended:
                self._begin(named[0], named)
            if self._pidfd is None:
                self._say(self.about or f"waiting for {path} to name a process")
                await trio.sleep(LOOK_SECONDS)
                continue
            with trio.move_on_after(LOOK_SECONDS):
                await self._until_end(f"process {self._pid} has ended; waiting for {path} to name another")
                self._ended = named

    def _begin(self, pid: int, named: object) -> None:
        """Watch this process from now on, if it is one."""
        self._let_go()
        try:
            self._pidfd = open_process(pid)
        except OSError as error:
            self._ended = named
            self._say(f"process {pid} cannot be watched: {os.strerror(error.errno or 0).lower()}")
            return
        self._pid = pid
        self._on_start()
        self._say(f"process {pid} is watched")

    async def _until_end(self, words: str) -> None:
        if self._pidfd is None:
            return
        await trio.lowlevel.wait_readable(self._pidfd)
        self._let_go()
        self._on_end()
        self._say(words)

    def _let_go(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pid = self._pidfd = None

    def _say(self, words: str) -> None:
        if words != self.about:
            self.about = words
            self._on_event(words)


def _read_pid_file(path: Path) -> tuple[int, int, int] | None:
    """The process id, and what tells this file from the one before it; None where there is none in it."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            pid = int(file.read(MAX_BYTES))
    except (OSError, ValueError):
        return None
    return (pid, found.st_mtime_ns, found.st_ino) if 0 < pid < 1 << 22 else None
