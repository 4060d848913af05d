"""Virtual time: integer microseconds, one heap, and nothing that reads a real clock.

An event is a plain tuple ``(time, order, action, first, second)`` and means ``action(first, second)`` at that time.
``order`` counts pushes, so events of one microsecond run in the order they were pushed and tuples never compare any
further. Actions are bound methods that exist already: pushing an event allocates the tuple and nothing else.
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
    """A heap of events and the time of the one that runs."""

    __slots__ = ("heap", "next_order", "now")

    def __init__(self) -> None:
        self.now = 0
        self.heap: list[tuple[int, int, Action, Any, Any]] = []
        self.next_order = itertools.count().__next__

    def push(self, time: int, action: Action, first: Any = None, second: Any = None) -> None:
        """Run ``action(first, second)`` at ``time`` (microseconds), after what was pushed for that moment before."""
        heapq.heappush(self.heap, (time, self.next_order(), action, first, second))

    def run_until(self, time: int) -> None:
        """Run every event up to and including ``time`` (microseconds), and leave the clock there."""
        heap, pop = self.heap, heapq.heappop
        while heap and heap[0][0] <= time:
            self.now, _, action, first, second = pop(heap)
            action(first, second)
        self.now = time
