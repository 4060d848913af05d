"""When a request with a late answer is sent to the next owner as well. Pure; times in seconds.

No fixed delay suits both an embedding of 5 ms and a generation of 60 s. So the delay follows the recent answers to
requests of the same kind: an answer is late a quarter beyond their 95th percentile, and after 50 ms at least. The
quarter spares requests that all take about as long. Only successful attempts count. Each counts by its own duration and
not by the time its request had waited before, so a dead worker does not slow the hedges that it makes necessary.
`hedge_after=` sets a fixed delay instead.

A kind is a method, a path and a class of body sizes. No request is hedged for lateness until its kind is known: a new
pool that guessed would send the most expensive requests twice. Only replayable requests are hedged. One that asks for a
stream (`Accept: text/event-stream`, or `"stream": true` in its body) is not hedged for lateness: such a request is long
and expensive, and its first byte says nothing of when it ends.

A late answer is hedged once, from a budget of 2 % of the requests (retry_budget.py). If the worker looks unresponsive,
all its requests may have to be sent elsewhere at once, and another budget pays. It does if:

- it has become suspect since the attempt began; then a hedge is due at once, whatever is known about the kind; or
- four times the 95th percentile has passed, and it has answered nobody since the attempt began, while others have; or
- that time has passed, it had just been unresponsive or failed, and this request is the probe of a half-open breaker
  (breaker.py).

The first answer wins. The other attempt is cancelled by closing its connection, which is how a worker can tell.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from typing import Final

LATE_FACTOR: Final = 1.25
"""How many times the 95th percentile an answer takes before it is late. Less spends the budget on requests that are as
slow as many; more saves less time."""
UNRESPONSIVE_FACTOR: Final = 4.0
"""How many times the 95th percentile an answer takes before silence speaks against its worker. Less takes a long
request for a frozen worker; more makes the requests at a frozen one wait longer."""
MIN_HEDGE_DELAY: Final = 0.050
"""Less hedges every hiccup of a scheduler; more makes each frozen worker cost its callers that much more time."""
MIN_ANSWERS: Final = 20
"""Answers that a 95th percentile needs to mean something."""
WINDOW: Final = 256
"""Answers that count. More gives a smoother figure; fewer follow a change of the service's pace sooner."""
PERCENTILE: Final = 0.95
MAX_KINDS: Final = 64
"""Kinds known at a time. The least recently used is forgotten first, such as a path with a name in it."""

Kind = tuple[str, str, int]


def request_kind(method: str, path: str, content_length: str | None) -> Kind:
    """Requests of one kind take about as long. Body sizes within a factor of four count as alike."""
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
        """None until something was answered."""
        if not self._sorted:
            return None
        return self._sorted[min(int(len(self._sorted) * PERCENTILE), len(self._sorted) - 1)]

    @property
    def median(self) -> float | None:
        """None while too few answers are known."""
        return self._sorted[len(self._sorted) // 2] if len(self._sorted) >= MIN_ANSWERS else None

    @property
    def hedge_delay(self) -> float | None:
        """How long to wait for an answer before asking the next owner too. None while too few answers are known."""
        p95 = self.p95
        return None if p95 is None or len(self._recent) < MIN_ANSWERS else max(LATE_FACTOR * p95, MIN_HEDGE_DELAY)


class LatencyWindows:
    """One window for each kind of request."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Kind, LatencyWindow] = OrderedDict()

    def window(self, kind: Kind) -> LatencyWindow:
        """The window of this kind; a new one if there is none."""
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) == MAX_KINDS:
                self._windows.popitem(last=False)
            window = self._windows[kind] = LatencyWindow()
        self._windows.move_to_end(kind)
        return window
