"""When a request that is slow to be answered is sent to the next owner as well. Pure; times in seconds.

No fixed limit suits both an embedding of 5 ms and a generation of 60 s, so the recent answers to requests of the same
kind set the pace: a hedge is due after four times their 95th percentile, 50 ms at least. Only attempts that succeeded
count, each by its own duration and not by how long its request had waited before, so a death does not slow the hedges
it calls for.

A kind is a method, a path and a class of body sizes. Nothing is hedged for being late before its kind is known: a fresh
pool that guessed would send the dearest work twice.

What is sent twice is paid from one of two budgets (budget.py). A worker that answers others is only late with this one;
one of which there is reason to doubt that it still works may need all its requests asked elsewhere at once:

- it became suspect since the attempt began: then a hedge is due at once, whatever is known of the kind;
- it has answered nobody since the attempt began, while other workers have answered;
- it has just hung or failed, and this is the request that tries whether it still does (breaker.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from typing import Final

FACTOR: Final = 4.0
FLOOR: Final = 0.050
"""Shorter, and a scheduler's hiccup is hedged; longer, and every freeze costs a caller that much more."""
ENOUGH: Final = 20
"""Answers from which on a 95th percentile means something."""
WINDOW: Final = 256
"""Answers that count. More smooth the figure; fewer follow a change of the service's pace sooner."""
PERCENTILE: Final = 0.95
MAX_KINDS: Final = 64
"""Kinds known at a time; those not asked for longest are forgotten first, as paths with a name in each would be."""

Kind = tuple[str, str, int]


def kind_of(method: str, path: str, content_length: str | None) -> Kind:
    """Requests that take about as long: bodies count as alike within a factor of four."""
    size = int(content_length) if content_length is not None and content_length.isdecimal() else -1
    return method, path, -1 if size < 0 else size.bit_length() // 2


class LatencyWindow:
    """The recent durations of the answers to one kind of request."""

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
    def delay(self) -> float | None:
        """How long to wait for an answer before asking the next owner too; None until enough is known to say."""
        p95 = self.p95
        return None if p95 is None or len(self._recent) < ENOUGH else max(FACTOR * p95, FLOOR)


class LatencyWindows:
    """One for each kind of request."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Kind, LatencyWindow] = OrderedDict()

    def of(self, kind: Kind) -> LatencyWindow:
        """The window of this kind, which is made where there is none."""
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) == MAX_KINDS:
                self._windows.popitem(last=False)
            window = self._windows[kind] = LatencyWindow()
        self._windows.move_to_end(kind)
        return window
