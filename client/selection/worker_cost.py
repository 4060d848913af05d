"""Which of two workers is the better choice for a request without a key. Pure; times in seconds.

A worker costs what it has to do: its requests in flight and its recent failures, for its weight. This is multiplied by
two factors. Each is 1 unless it speaks clearly:

- **Slower.** A worker whose latency is more than SLOWER times the other's costs so much more. Latencies differ from
  request to request, so smaller differences say nothing. The estimate is a peak EWMA (Finagle): it jumps up with a slow
  answer, and comes down slowly with quick ones. Without answers it comes down too, so that a slow worker is tried
  again. The request that tries it stops that, until its answer shows whether the worker has healed. So a slow worker
  gets one request every few seconds.
- **Busier with others.** Where the utilization of both workers is known, each costs as much more as requests wait
  longer there: 1 / (1 - utilization), the waiting factor of a queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf
from typing import Final

TAU: Final = 3.0
"""Time constant of the estimate. More keeps away from a worker for longer that has been slow; less asks slow ones more
often."""
SLOWER: Final = 2.0
"""How many times slower a worker must be to count as slow. More reacts later; less reacts to chance."""
MOST_UTILIZED: Final = 0.8
"""Utilization beyond this counts as this. The figure is a moment old, and the factor grows without bound."""


class LatencyEstimate:
    """A worker's latency as a peak EWMA."""

    __slots__ = ("_moved_at", "_sampled_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._sampled_at = -inf
        self._moved_at = -inf
        """When it was last answered or asked. The estimate comes down since then."""

    def on_request(self, now: float) -> None:
        """A request goes to the worker. The estimate stops coming down until there is news."""
        self._moved_at = now

    def record(self, latency: float, now: float) -> None:
        """A request took this long."""
        if latency >= self._value:
            self._value = latency
        else:
            kept = exp((self._sampled_at - now) / TAU)
            self._value = self._value * kept + latency * (1 - kept)
        self._sampled_at = self._moved_at = now

    def at(self, now: float) -> float | None:
        """Seconds that an answer takes. None if nothing is known."""
        if self._sampled_at == -inf:
            return None
        return self._value * exp(min(self._moved_at - now, 0) / TAU)


@dataclass(frozen=True, slots=True)
class ObservedLoad:
    """What is known of one worker."""

    in_flight: int
    failures: int
    """How many of its last answers were failures. Each counts as a request in flight."""
    weight: float
    latency: float | None
    utilization: float | None


def costs_more(one: ObservedLoad, other: ObservedLoad) -> bool:
    """Whether the other worker is clearly the better choice. If both cost the same, `one` stays."""
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
