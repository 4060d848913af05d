"""Lines to stderr from a thread of their own, because a write to stderr may never return.

A pipe that nobody reads, a terminal stopped with Ctrl-S and a slow disk all hold whoever writes. ``O_NONBLOCK`` would
be no way out: it belongs to the open file, which other processes share. So whoever logs only puts a line into a bounded
queue. What finds it full is dropped and counted, and so is what cannot be written at all; where lines go out again, one
says how many are missing.
"""

from __future__ import annotations

import io
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import NamedTuple

QUEUED_LINES = 1000
"""Waiting to be written. More: a longer stall costs no line, and more memory (some 300 bytes a line)."""
LONGEST_LINE = 1 << 16
"""Characters; the rest of a line is cut off."""
WRITTEN_TOGETHER = 2048
"""Characters that are enough for one write. A loop that is busy lets this thread run some 200 times a second only, and
what is written to a pipe at once is not mixed with other processes' lines up to 4096 bytes (pipe(7))."""
FLUSH_SECONDS = 1.0
"""How long the end of the process waits for lines that are not written yet."""


class _Line(NamedTuple):
    text: str
    dropped_before: int
    """Lines dropped since the start when this one was queued."""


class LineWriter:
    """Writes whole lines to a descriptor, None for one that is closed. ``about_loss`` makes the line about N lost ones.

    :meth:`put` never blocks, and may be called from any thread and from a finalizer.
    """

    def __init__(self, descriptor: int | None, about_loss: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._about_loss = about_loss
        self._queue: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()  # the one whose put is reentrant
        self._overflowed = 0
        self._unwritten = 0
        self._told = self._telling = 0
        """Of the lost lines, those that a line was written about; and with what is being written."""
        self._texts: list[str] = []
        """To be written next."""
        self._lines = 0
        """How many of those were put here."""
        self._torn = False
        """Whether the last line was broken off in the middle."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        if descriptor is not None:
            self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._overflowed + self._unwritten

    def put(self, text: str) -> None:
        """Have a line written, or count it as dropped. Its line break is added here."""
        if self._descriptor is None or self._queue.qsize() >= QUEUED_LINES:
            self._overflowed += 1
        else:
            self._queue.put(_Line(text[:LONGEST_LINE], self._overflowed))

    def close(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait for what is queued, but no longer than this many seconds. Nothing is written after it."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._mention(line.dropped_before + self._unwritten)
            self._texts.append(line.text)
            self._lines += 1
            if self._queue.empty():
                self._mention(self.dropped)
                self._write()
            elif sum(map(len, self._texts)) >= WRITTEN_TOGETHER:
                self._write()
        self._mention(self.dropped)
        self._write()

    def _mention(self, dropped: int) -> None:
        """Say how many lines are missing here."""
        if lost := max(dropped - self._telling, 0):
            self._texts.append(self._about_loss(lost))
            self._telling = dropped

    def _write(self) -> None:
        try:
            self._write_all("".join(f"{text}\n" for text in self._texts).encode(errors="replace"))
        except OSError:  # a full disk, a reader that has gone: perhaps the next lines can be written
            self._unwritten += self._lines
            self._telling = self._told
        else:
            self._told = self._telling
        self._texts, self._lines = [], 0

    def _write_all(self, data: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101  for the type checker: else there is no thread
        data = b"\n" + data if self._torn else data
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody who shares the open file has made it non-blocking
                _wait_writable(self._descriptor)
            else:
                self._torn = bool(data)


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class LineStream(io.TextIOBase):
    """A text stream whose lines go to a :class:`LineWriter`: what ``sys.stderr`` is while an agent runs, so that
    warnings and tracebacks cannot hold it either."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, writer: LineWriter, *, terminal: bool) -> None:
        super().__init__()
        self._writer = writer
        self._terminal = terminal
        self._begun = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        """Queue the lines that are complete; what follows the last line break waits for its own."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._writer.put(line)
        self._begun = self._begun[:LONGEST_LINE]
        return len(text)
