"""Which of two workers is the better choice for a request without a key. Pure; times in seconds.

A worker costs what it has to do: its requests in flight and its recent failures, for its weight. This is multiplied by
two factors, each of which is 1 unless it speaks clearly:

- **Slower.** A worker whose latency is more than SLOWER times the other's costs so much more. Latencies differ from
  request to request, so smaller differences say nothing. The estimate is a peak EWMA (Finagle): it jumps up with a slow
  answer, and comes down slowly with quick ones. Without answers it comes down too, with the time or with the pool's
  requests, whichever is slower. So a slow worker is tried again every few seconds, and by less than one request in a
  hundred if it is ten times slower. The request that tries it stops that, until its answer shows whether the worker
  has healed. If another answer is quicker again, the estimate doubles: all that is known is that it was too low.
- **Much slower.** Beyond MUCH_SLOWER times, the worker loses whatever both have under way: nearly all it could add is a
  long wait.
- **Busier with others.** Where the utilization of both workers is known, each costs as much more as requests wait
  longer there: 1 / (1 - utilization), the waiting factor of a queue.
"""

from __future__ import annotations

from math import exp, inf
from typing import Final, NamedTuple

TAU: Final = 3.0
"""Time constant of the estimate. More keeps away from a worker for longer that has been slow; less asks slow ones more
often."""
TAU_REQUESTS: Final = 150
"""The same, counted in requests of the pool. More tries slow workers with a smaller share of the requests; less finds
out sooner, where requests are few, that one has healed."""
SLOWER: Final = 2.0
"""How many times slower a worker must be to count as slow. More reacts later; less reacts to chance."""
MUCH_SLOWER: Final = 4.0
"""How many times slower a worker must be to lose whatever both have under way. More gives a slow worker requests while
the others are busy; less wastes what a somewhat slower worker could do."""
MOST_DOUBLED: Final = 16.0
"""The highest estimate, as a multiple of the last wait in vain. More tries a worker that fails to answer less often."""
MOST_UTILIZED: Final = 0.8
"""Utilization beyond this counts as this. The figure is a moment old, and the factor grows without bound."""


class LatencyEstimate:
    """A worker's latency as a peak EWMA."""

    __slots__ = ("_moved_at", "_moved_count", "_sampled_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._sampled_at = -inf
        self._moved_at = -inf
        """When it was last answered or asked. The estimate comes down since then."""
        self._moved_count = 0
        """How many requests of the pool had begun by then."""

    def on_request(self, now: float, count: int) -> None:
        """A request goes to the worker, the pool's `count`-th. The estimate stops coming down until there is news."""
        self._moved_at, self._moved_count = now, count

    def record_at_least(self, latency: float, now: float, count: int) -> None:
        """A request had not been answered after so long, when nobody waited for it any more."""
        self._value = max(latency, min(2 * self._value, MOST_DOUBLED * latency))
        self._sampled_at, self._moved_at, self._moved_count = now, now, count

    def record(self, latency: float, now: float, count: int) -> None:
        """A request took this long. By now, `count` requests of the pool have begun."""
        if latency >= self._value:
            self._value = latency
        else:
            kept = exp((self._sampled_at - now) / TAU)
            self._value = self._value * kept + latency * (1 - kept)
        self._sampled_at = self._moved_at = now
        self._moved_count = count

    def at(self, now: float, count: int) -> float | None:
        """Seconds that an answer takes. None if nothing is known."""
        if self._sampled_at == -inf:
            return None
        age = min((now - self._moved_at) / TAU, (count - self._moved_count) / TAU_REQUESTS)
        return self._value * exp(-max(age, 0.0))


class ObservedLoad(NamedTuple):
    """What is known of one worker. A tuple, because two are made for each choice."""

    in_flight: int
    failures: int
    """How many of its last answers were failures. Each counts as a request in flight."""
    weight: float
    latency: float | None
    utilization: float | None


def costs_more(one: ObservedLoad, other: ObservedLoad) -> bool:
    """Whether the other worker is clearly the better choice. If both cost the same, `one` stays."""
    if (slowness := _slowness(one, other)) > MUCH_SLOWER or _slowness(other, one) > MUCH_SLOWER:
        return slowness > MUCH_SLOWER
    return _cost(one, other) > _cost(other, one)


def is_worse(one: ObservedLoad, other: ObservedLoad) -> bool:
    """Whether one worker is slow beside the other, or fails more."""
    return one.failures > other.failures or _slowness(one, other) > 1.0


def _cost(one: ObservedLoad, other: ObservedLoad) -> float:
    mean_weight = (one.weight + other.weight) / 2
    waiting = 1.0
    if one.utilization is not None and other.utilization is not None:
        waiting = 1.0 / (1.0 - min(one.utilization, MOST_UTILIZED))
    return _slowness(one, other) * waiting * (1.0 + (one.in_flight + one.failures) * mean_weight / one.weight)


def _slowness(one: ObservedLoad, other: ObservedLoad) -> float:
    if one.latency is None or not other.latency:
        return 1.0
    ratio = one.latency / other.latency
    return ratio if ratio > SLOWER else 1.0
