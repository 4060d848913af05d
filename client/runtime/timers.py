"""One timer for all requests of a pool: requests say when to look at them again, and a single task wakes them.

Most requests are answered long before they are due, so the usual request costs one insertion into a heap. Its entry is
only emptied when it ends. It leaves the heap with the next one that falls due, or when half of the entries are empty.
The task is woken early only for an entry that falls due before the one it waits for. Threads may share a timer.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

import anyio
import anyio.lowlevel

from rumormill.client.runtime.shared_lock import SharedLock

RunInLoop = Callable[[Callable[[], object]], object]
"""Runs a function in the pool's event loop, soon. Any thread of the pool may call it."""

MAX_EMPTY = 256
"""Empty entries that are kept in any case. More costs memory, fewer costs a scan of the heap more often."""


class Timed(Protocol):
    """Something that wants to be called at a time."""

    def handle_timer(self) -> None: ...


class TimerEntry:
    """One wish to be called. Empty once `waiting` is None."""

    __slots__ = ("due", "waiting")

    def __init__(self, due: float, waiting: Timed) -> None:
        self.due = due
        self.waiting: Timed | None = waiting


class Timers:
    """All entries of one pool. Times are on the pool's clock, in seconds."""

    def __init__(self, clock: Callable[[], float], lock: SharedLock, run_in_loop: RunInLoop) -> None:
        self._clock = clock
        self._lock = lock
        self._run_in_loop = run_in_loop
        self._heap: list[tuple[float, int, TimerEntry]] = []
        self._numbers = count()
        self._empty = 0
        self._sleeps_until = -inf
        """What the task waits for. It looks at the heap itself before it waits again."""
        self._woken = anyio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: float, waiting: Timed) -> TimerEntry:
        """Call `waiting.handle_timer()` at `due` or soon after, unless the entry is discarded."""
        entry = TimerEntry(due, waiting)
        with self._lock:
            heappush(self._heap, (due, next(self._numbers), entry))
            wake = due < self._sleeps_until
            if wake:
                self._sleeps_until = -inf
        if wake:
            self._run_in_loop(self._wake)
        return entry

    def discard(self, entry: TimerEntry) -> None:
        """It need not be called any more. Safe to repeat."""
        if entry.waiting is None:
            return
        with self._lock:
            entry.waiting = None
            self._empty += 1
            if self._empty > MAX_EMPTY and 2 * self._empty > len(self._heap):
                self._heap = [item for item in self._heap if item[2].waiting is not None]
                heapify(self._heap)
                self._empty = 0

    async def run(self) -> None:
        """Call what is due, forever."""
        while True:
            for waiting in self._due():
                waiting.handle_timer()
            self._woken = anyio.Event()
            until = self._sleep_until_next()
            if until > self._clock():
                with anyio.CancelScope(deadline=until):
                    await self._woken.wait()
            else:
                await anyio.lowlevel.checkpoint()

    def _due(self) -> list[Timed]:
        now, found = self._clock(), []
        with self._lock:
            self._sleeps_until = -inf
            while self._heap and self._heap[0][0] <= now:
                if (waiting := self._pop()) is not None:
                    found.append(waiting)
        return found

    def _sleep_until_next(self) -> float:
        with self._lock:
            while self._heap and self._heap[0][2].waiting is None:
                self._pop()
            self._sleeps_until = self._heap[0][0] if self._heap else inf
            return self._sleeps_until

    def _pop(self) -> Timed | None:
        entry = heappop(self._heap)[2]
        waiting, entry.waiting = entry.waiting, None
        self._empty -= waiting is None
        return waiting

    def _wake(self) -> None:
        self._woken.set()
