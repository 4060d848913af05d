"""Keeps a file up to date with some content. It writes in a thread, so that a slow disk delays no heartbeat.

The new content goes to a temporary file in the same folder, which is synced and then replaces the old file: a crash
leaves the old one intact. An error never stops the sidecar. A full disk or a missing folder leads to a warning and a
retry.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import trio

RETRY_SECONDS = 10.0
"""Seconds between attempts while writing fails."""
LEFT_BEHIND_SECONDS = 60.0
"""Age at which no write can still be under way."""
FINAL_WRITE_TIMEOUT = 2.0
"""Seconds that the end of the process waits for a disk that hangs."""
Content = TypeVar("Content")


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically. Blocks for the disk. After an OSError the old file is still there. A symbolic link
    stays a link: the file it points to is replaced."""
    path = path.resolve()
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writes that a kill has cut short. Not young ones: agents may share a file. Blocks
    for the disk."""
    path = path.resolve()
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.new"):
            if time.time() - left.stat().st_mtime > LEFT_BEHIND_SECONDS:
                left.unlink(missing_ok=True)


class FileWriter(Generic[Content]):
    """Writes what ``read`` returns whenever it has changed. Nothing is written for None, or with a ``path`` of None.

    ``written`` is what the file holds already. ``warn`` gets the first error of a series, or every error with
    ``warn_every_time``; ``on_written`` gets what was written. ``min_interval`` is in seconds: a larger value means
    fewer writes, and an older file after a crash.
    """

    def __init__(
        self,
        path: Path | None,
        read: Callable[[], Content | None],
        write: Callable[[Path, Content], None],
        warn: Callable[[str], None],
        *,
        written: Content | None = None,
        min_interval: float = 0.0,
        warn_every_time: bool = False,
        on_written: Callable[[Content], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._read = read
        self._write = write
        self._warn = warn
        self._written = written
        self._min_interval = min_interval
        self._warn_every_time = warn_every_time
        self._on_written = on_written
        self._change_pending = trio.Event()
        self._write_lock = threading.Lock()
        """One write at a time: a write that hung must not replace newer content with older."""
        self.trouble = ""
        """Why the file is not up to date; empty if it is."""

    def notify_changed(self) -> None:
        """The content may have changed."""
        self._change_pending.set()

    async def run(self) -> None:
        """Write each change, forever. Returns at once if there is no path."""
        if self._path is not None:
            await trio.to_thread.run_sync(remove_leftovers, self._path, abandon_on_cancel=True)
        while self._path is not None:
            await self._change_pending.wait()
            self._change_pending = trio.Event()
            content = self._unwritten_content()
            if content is not None:
                self._record_result(content, await self._in_thread(self._path, content))
            if self.trouble:
                self._change_pending.set()
            await trio.sleep(RETRY_SECONDS if self.trouble else self._min_interval)

    async def write_final(self, timeout: float = FINAL_WRITE_TIMEOUT) -> None:
        """Write the last change before the process ends. Waits at most ``timeout`` seconds for the disk."""
        if self._path is not None and (content := self._unwritten_content()) is not None:
            with trio.move_on_after(timeout) as waited:
                self._record_result(content, await self._in_thread(self._path, content))
            if waited.cancelled_caught:
                self._warn(f"{self._path} cannot be written: the disk does not answer")

    async def _in_thread(self, path: Path, content: Content) -> OSError | None:
        """When cancelled, it leaves the thread behind: nothing waits for a disk that hangs."""
        return await trio.to_thread.run_sync(self._try_write, path, content, abandon_on_cancel=True)

    def _unwritten_content(self) -> Content | None:
        content = self._read()
        return None if content == self._written else content

    def _try_write(self, path: Path, content: Content) -> OSError | None:
        try:
            with self._write_lock:
                self._write(path, content)
        except OSError as error:
            return error
        return None

    def _record_result(self, content: Content, problem: OSError | None) -> None:
        if problem is None:
            self._written, self.trouble = content, ""
            self._on_written(content)
            return
        begins, self.trouble = not self.trouble, f"{self._path} cannot be written: {problem.strerror or problem}"
        if begins or self._warn_every_time:
            self._warn(self.trouble)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
