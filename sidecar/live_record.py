"""Keeps the flight recorder's record in a file too, so that it outlives a process that is killed.

Each second a thread appends what is new. So a kill loses about a second, and may leave half an object at the end, which
the reader cuts off. The file is removed when the agent ends by itself. A file that is there at the next start comes
from an agent that was killed. It is kept under a name of its own (incident_records.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from rumormill.recording.recorder import FlightRecorder, RecordPosition
from rumormill.sidecar.file_writer import FINAL_WRITE_TIMEOUT, replace_file

LIVE_SUFFIX: Final = ".live"
INTERVAL: Final = 1.0
"""Seconds between writes."""
RETRY_SECONDS: Final = 60.0
"""After a write that failed."""
MAX_SHARE: Final = 2
"""The file is written anew when it would be this many times as long as the recorder's limit."""


class LiveRecord:
    """The file of one agent."""

    def __init__(self, path: Path, recorder: FlightRecorder, warn: Callable[[str], None]) -> None:
        self.path = path
        self._recorder = recorder
        self._warn = warn
        self._written: RecordPosition | None = None
        """The end of what is in the file; None if the file has to be written anew."""
        self._size = 0
        self._lock = threading.Lock()
        """Held by each write and by the removal. A write on a slow disk may outlast the agent's tasks."""

    async def run(self) -> None:
        """Write until cancelled, and remove the file then."""
        try:
            while True:
                await trio.sleep(INTERVAL if await self._write_news() else RETRY_SECONDS)
        finally:
            with trio.move_on_after(FINAL_WRITE_TIMEOUT, shield=True):
                await trio.to_thread.run_sync(self._remove, abandon_on_cancel=True)

    async def _write_news(self) -> bool:
        """Whether the file is up to date now."""
        recorder = self._recorder
        end = recorder.end()
        news = recorder.since(self._written) if self._written else None
        anew = news is None or self._size + len(news) > MAX_SHARE * recorder.limit
        data = recorder.dump() if anew or news is None else news
        self._written, self._size = end, len(data) + (0 if anew else self._size)
        try:
            await trio.to_thread.run_sync(self._write, replace_file if anew else append, data, abandon_on_cancel=True)
        except OSError as error:
            self._written = None  # nobody knows how much of it is in the file
            self._warn(f"{self.path}: {error.strerror or error}")
            return False
        return True

    def _write(self, how: Callable[[Path, bytes], None], data: bytes) -> None:
        with self._lock:
            how(self.path, data)

    def _remove(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self.path.unlink()


def append(path: Path, data: bytes) -> None:
    """Add to a file that exists. Blocks for the disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "wb") as file:
        file.write(data)
