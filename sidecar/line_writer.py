"""Writes lines to stderr in a thread of its own, because a write to stderr may never return.

A pipe that nobody reads, a terminal stopped with Ctrl-S and a slow disk all block the writer. ``O_NONBLOCK`` does not
help: it belongs to the open file, which other processes share. So logging only puts a line into a bounded queue. A line
that finds the queue full is dropped and counted, and so is a line that cannot be written. When lines can be written
again, one line says how many are missing.
"""

from __future__ import annotations

import io
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import NamedTuple

MAX_QUEUED_LINES = 1000
"""Lines that may wait. A larger value survives a longer stall without loss, and uses more memory (some 300 bytes per
line)."""
MAX_LINE_CHARS = 1 << 16
"""Characters; the rest of a line is cut off."""
BATCH_CHARS = 2048
"""Characters after which a batch is written. Lines are batched because a busy event loop lets this thread run only some
200 times a second. Writes to a pipe of up to 4096 bytes are not mixed with those of other processes (pipe(7))."""
FLUSH_SECONDS = 1.0
"""Seconds that the end of the process waits for lines that are not written yet."""


class _Line(NamedTuple):
    text: str
    dropped_before: int
    """Lines dropped since the start when this one was queued."""


class LineWriter:
    """Writes whole lines to a descriptor; None stands for a closed one. ``loss_line`` makes the text that reports how
    many lines were lost.

    :meth:`put` never blocks. It may be called from any thread, and from a finalizer.
    """

    def __init__(self, descriptor: int | None, loss_line: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._about_loss = loss_line
        self._queue: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()  # the only queue whose put is reentrant
        self._overflowed = 0
        self._unwritten = 0
        self._reported = self._reporting = 0
        """Lost lines that have been reported; the same with the batch that is being written."""
        self._texts: list[str] = []
        """The next batch."""
        self._lines = 0
        """How many texts of the batch came from :meth:`put`; the others report losses."""
        self._in_partial_line = False
        """Whether the last write ended in the middle of a line."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        if descriptor is not None:
            self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._overflowed + self._unwritten

    def put(self, text: str) -> None:
        """Queue a line, given without its line break, or count it as dropped."""
        if self._descriptor is None or self._queue.qsize() >= MAX_QUEUED_LINES:
            self._overflowed += 1
        else:
            self._queue.put(_Line(text[:MAX_LINE_CHARS], self._overflowed))

    def close(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait for the queued lines, but at most ``timeout`` seconds. Nothing is written afterwards."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._report_losses(line.dropped_before + self._unwritten)
            self._texts.append(line.text)
            self._lines += 1
            if self._queue.empty():
                self._report_losses(self.dropped)
                self._write()
            elif sum(map(len, self._texts)) >= BATCH_CHARS:
                self._write()
        self._report_losses(self.dropped)
        self._write()

    def _report_losses(self, dropped: int) -> None:
        """Add a line that says how many lines are missing at this place."""
        if lost := max(dropped - self._reporting, 0):
            self._texts.append(self._about_loss(lost))
            self._reporting = dropped

    def _write(self) -> None:
        try:
            self._write_all("".join(f"{text}\n" for text in self._texts).encode(errors="replace"))
        except OSError:  # a full disk, or a closed pipe: the next lines may succeed
            self._unwritten += self._lines
            self._reporting = self._reported
        else:
            self._reported = self._reporting
        self._texts, self._lines = [], 0

    def _write_all(self, data: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101  for the type checker: without one there is no thread
        data = b"\n" + data if self._in_partial_line else data
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that shares the open file has made it non-blocking
                _wait_writable(self._descriptor)
            else:
                self._in_partial_line = bool(data)


def _wait_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class LineStream(io.TextIOBase):
    """A text stream whose lines go to a :class:`LineWriter`. It replaces ``sys.stderr`` while an agent runs, so that
    warnings and tracebacks cannot block the agent either."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, writer: LineWriter, *, terminal: bool) -> None:
        super().__init__()
        self._writer = writer
        self._terminal = terminal
        self._incomplete = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        """Queue the complete lines. Text after the last line break waits for the rest of its line."""
        *lines, self._incomplete = (self._incomplete + text).split("\n")
        for line in lines:
            self._writer.put(line)
        self._incomplete = self._incomplete[:MAX_LINE_CHARS]
        return len(text)
