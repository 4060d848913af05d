"""When a request that is slow to be answered is sent to the next owner as well. Pure; times in seconds.

No fixed limit suits both an embedding of 5 ms and a generation of 60 s, so the service's own recent answers set the
pace: a hedge is due after four times their 95th percentile, 50 ms at least. Only attempts that succeeded count, each by
its own duration and not by how long its request had waited before, so a death does not slow the hedges it calls for.

A budget keeps hedges from becoming a second load: when a whole service slows down, all of its requests would be hedged.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

FACTOR = 4.0
FLOOR = 0.050
"""Shorter, and a scheduler's hiccup is hedged; longer, and every freeze costs a caller that much more."""
COLD_FLOOR = 0.250
"""The floor until enough answers are known to speak of a percentile."""
ENOUGH = 8
WINDOW = 256
"""Answers that count. More smooth the figure; fewer follow a change of the service's pace sooner."""
PERCENTILE = 0.95

HEDGES_PER_REQUEST = 0.2
HEDGES_PER_SECOND = 5.0
HEDGE_BURST = 100.0
"""What one frozen worker may cost at once; a larger burst is a larger second load."""


class Pace:
    """The recent durations of a service's answers."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def record(self, seconds: float) -> None:
        """An attempt was answered after this long."""
        if len(self._recent) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(seconds)
        insort(self._sorted, seconds)

    @property
    def p95(self) -> float | None:
        """None until anything was answered."""
        if not self._sorted:
            return None
        return self._sorted[min(int(len(self._sorted) * PERCENTILE), len(self._sorted) - 1)]

    @property
    def delay(self) -> float:
        """How long to wait for an answer before asking the next owner too."""
        p95 = self.p95
        floor = FLOOR if len(self._recent) >= ENOUGH else COLD_FLOOR
        return floor if p95 is None else max(FACTOR * p95, floor)


class Budget:
    """How many hedges may still be sent: a bucket that requests and time refill."""

    def __init__(self, now: float) -> None:
        self._left = HEDGE_BURST
        self._at = now

    def earn(self, now: float) -> None:
        """A request came in."""
        self._refill(now, HEDGES_PER_REQUEST)

    def spend(self, now: float) -> bool:
        """Take one hedge, if one is left."""
        self._refill(now, 0.0)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _refill(self, now: float, extra: float) -> None:
        self._left = min(self._left + (now - self._at) * HEDGES_PER_SECOND + extra, HEDGE_BURST)
        self._at = now
