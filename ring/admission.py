"""When a caller passes over a key's owner: slow start, slow workers and bounded load. Pure; times in seconds.

A worker *admits* a fraction of its keys. Each key has a fixed fraction between 0 and 1, by a hash of its own, and is
admitted if it is below the worker's. Otherwise it goes to the next worker in the order. So the same keys stay each
time, and a worker that admits more takes back keys without moving others. Admission changes neither the ring, nor the
traffic split, nor the digest.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import mmh3

from rumormill.ring.worker import ReadinessWord

SLOW_START_SECONDS: Final = 30.0
"""Seconds until a new worker admits all of its keys. More spares its cold caches; the others carry its load longer."""
SLOW_START_MIN_FRACTION: Final = 0.1
"""The fraction admitted from the start. Without any load, no cache would warm."""
WARNING_FRACTION: Final = 0.5
"""The fraction that a worker admits while its readiness is *warning*: its answers are right, but late. More gives it
little relief. Less moves so many keys at once that the others may become slow too."""
LOAD_BOUND: Final = 1.25
"""The largest load of a worker, as a multiple of the mean. Further keys go to the next worker (consistent hashing with
bounded loads, Mirrokni et al. 2016). Less evens out the load more, and sends more keys past their first owner."""
OVERFLOW_LOAD_BOUND: Final = 1.1
"""The same for keys that are not at their first owner. Less than the bound, so that a hot key's overflow leaves room
for the neighbors' own keys (with 50 workers and Zipf 1.1, 77 % at their first owner instead of 68 %); less still gains
nothing and sends the overflow further. More than 1, so that somebody always has a place."""
UTILIZATION_SLACK: Final = 0.1
"""Utilization above the mean that is always allowed, because an idle pool needs no balancing."""
MIN_FRACTION: Final = 0.05
"""An overloaded worker still admits this fraction; otherwise its recovery would go unnoticed."""
FREE_SLOTS: Final = 8
"""Requests that a worker of weight 1 may have from this caller at once before its load counts at all."""

_SEED: Final = 0x73746570


def key_fraction(key: str | bytes) -> float:
    """The key's fixed fraction between 0 and 1, by a hash of its own."""
    return mmh3.hash(key, _SEED, False) / 2**32


def admit_fraction_by_age(age: float) -> float:
    """Slow start: the fraction of its keys that a worker admits ``age`` seconds after it became routable."""
    return min(max(age / SLOW_START_SECONDS, SLOW_START_MIN_FRACTION), 1.0)


def admit_fraction_by_readiness(readiness: ReadinessWord) -> float:
    """The fraction of its keys that a routable worker of this readiness admits."""
    return WARNING_FRACTION if readiness == "warning" else 1.0


def utilization_bound(known: Collection[tuple[float, float]]) -> float | None:
    """The largest utilization that a worker may have, from the (weight, utilization) of each; None if none is known.

    Pass the workers of one release only. A canary must keep its share, however busy its few workers are.
    """
    if not known:
        return None
    mean = sum(weight * busy for weight, busy in known) / sum(weight for weight, _ in known)
    return max(LOAD_BOUND * mean, mean + UTILIZATION_SLACK)


def admit_fraction_by_utilization(part: float, utilization: float, bound: float) -> float:
    """The fraction to admit after a new reading of a worker's gossiped utilization. `part` is the fraction before it.

    An integrating step: the fraction shrinks while the utilization is above its bound, grows while it is below, and
    stays at the bound. Admitting all or nothing would oscillate, because all callers read the same figure, and late.
    """
    return min(max(part * bound / max(utilization, 1e-3), MIN_FRACTION), 1.0)


def request_limit(total: int, weight: float, capacity: float, *, first: bool) -> int:
    """Bounded load by a caller's own counts: the requests that a worker of this weight may have under way.

    `total` is the number under way at all workers, `capacity` the sum of their weights. One more is about to begin, and
    at least one worker has room for it. `first` says whether this worker is the key's first owner.
    """
    bound = LOAD_BOUND if first else OVERFLOW_LOAD_BOUND
    return max(math.ceil(bound * (total + 1) * weight / capacity), math.ceil(FREE_SLOTS * weight))
