"""A file that is kept in step with what it is about: written in a thread, so that a slow disk delays no heartbeat.

It is written whole beside its place, synced and moved there, so a crash leaves the old one. Nothing of it stops a
sidecar: a full disk or a folder that is gone costs a warning, and is tried again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import trio

AGAIN_SECONDS = 10.0
"""Between tries to write the file while that fails."""
LAST_SECONDS = 2.0
"""How long the end of the process waits for a disk that hangs."""
Content = TypeVar("Content")


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file in its place in one step. Blocks for the disk; raises OSError, and the old one is still there then. A
    link to a file stays one."""
    path = path.resolve()
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(path.parent)


class FileWriter(Generic[Content]):
    """Writes what ``read`` returns whenever that has changed; None is nothing to write, and so is a ``path`` of None.

    ``warn`` is told when trouble begins, or each time it is tried in vain (``insist``); ``on_written`` of what was
    written. ``written`` is what the file holds already. Larger ``quiet`` seconds: fewer writings, and an older file
    after a crash.
    """

    def __init__(
        self,
        path: Path | None,
        read: Callable[[], Content | None],
        write: Callable[[Path, Content], None],
        warn: Callable[[str], None],
        *,
        written: Content | None = None,
        quiet: float = 0.0,
        insist: bool = False,
        on_written: Callable[[Content], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._read = read
        self._write = write
        self._warn = warn
        self._written = written
        self._quiet = quiet
        self._insist = insist
        self._on_written = on_written
        self._due = trio.Event()
        self._writing = threading.Lock()
        """One writing at a time: one that hung must not put older content over newer."""
        self.trouble = ""
        """Why the file does not hold what it should; empty when it does."""

    def changed(self) -> None:
        """There may be something new."""
        self._due.set()

    async def run(self) -> None:
        """Write whenever there is something new; returns only where nothing is kept."""
        while self._path is not None:
            await self._due.wait()
            self._due = trio.Event()
            content = self._news()
            if content is not None:
                self._note(content, await self._in_thread(self._path, content))
            if self.trouble:
                self._due.set()
            await trio.sleep(AGAIN_SECONDS if self.trouble else self._quiet)

    async def write_last(self, timeout: float = LAST_SECONDS) -> None:
        """The last word before the process ends, which a disk that hangs holds up for so many seconds at most."""
        if self._path is not None and (content := self._news()) is not None:
            with trio.move_on_after(timeout) as waited:
                self._note(content, await self._in_thread(self._path, content))
            if waited.cancelled_caught:
                self._warn(f"{self._path} cannot be written: the disk does not answer")

    async def _in_thread(self, path: Path, content: Content) -> OSError | None:
        """Cancelled, it leaves the thread behind: nobody waits for a disk that hangs."""
        return await trio.to_thread.run_sync(self._attempt, path, content, abandon_on_cancel=True)

    def _news(self) -> Content | None:
        content = self._read()
        return None if content == self._written else content

    def _attempt(self, path: Path, content: Content) -> OSError | None:
        try:
            with self._writing:
                self._write(path, content)
        except OSError as error:
            return error
        return None

    def _note(self, content: Content, problem: OSError | None) -> None:
        if problem is None:
            self._written, self.trouble = content, ""
            self._on_written(content)
            return
        begins, self.trouble = not self.trouble, f"{self._path} cannot be written: {problem.strerror or problem}"
        if begins or self._insist:
            self._warn(self.trouble)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
