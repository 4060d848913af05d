"""Virtual time: integer microseconds in one heap. Nothing reads a real clock.

An event is a tuple ``(time, order, action, first, second)``: call ``action(first, second)`` at that time. ``order``
counts pushes. So events of one microsecond run in push order, and tuples never compare beyond it. Actions are existing
bound methods, so pushing an event allocates only the tuple.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

SECOND = 1_000_000
"""Microseconds."""

Action = Callable[[Any, Any], None]


def microseconds(seconds: float) -> int:
    return round(seconds * SECOND)


class Scheduler:
    """A heap of events, and the time of the running event."""

    __slots__ = ("heap", "next_order", "now")

    def __init__(self) -> None:
        self.now = 0
        self.heap: list[tuple[int, int, Action, Any, Any]] = []
        self.next_order = itertools.count().__next__

    def push(self, time: int, action: Action, first: Any = None, second: Any = None) -> None:
        """Run ``action(first, second)`` at ``time`` (microseconds), after events pushed earlier for the same time."""
        heapq.heappush(self.heap, (time, self.next_order(), action, first, second))

    def run_until(self, time: int) -> None:
        """Run every event up to and including ``time`` (microseconds), and set the clock to it."""
        heap, pop = self.heap, heapq.heappop
        while heap and heap[0][0] <= time:
            self.now, _, action, first, second = pop(heap)
            action(first, second)
        self.now = time
