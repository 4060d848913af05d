"""How much more a service could do, and how many of its workers may fail. Pure; times in seconds.

* A worker's capacity is its weight. What it does is its capacity times its utilization.
* A routable worker whose load is unknown counts as busy as the others in the mean. It is neither full nor idle.
* A suspect may be dead already: what it does must find a place elsewhere, and its capacity is not counted as spare.
* The workers that fail are the largest: that is the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rumormill.ring.worker import Worker

SCALE_OUT_AT: Final = 0.60
"""Mean utilization from which more workers are asked for."""
SCALE_OUT_BELOW: Final = 0.50
"""Mean utilization below which they no longer are. Closer to the other: a pool near it asks and stops asking."""
HOLD_SECONDS: Final = 30.0
"""How long the mean must stay on the other side before the answer changes. Larger: bursts ask for nothing, and real
growth is answered later."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What the known loads of one service mean. Utilizations are None where none is known."""

    mean: float | None
    """Mean of the routable workers, by weight."""
    worst: float | None
    known: int
    """Routable workers whose load is known."""
    may_fail: int | None
    """Workers that may fail now before the rest exceeds its capacity; None where no load is known."""


def headroom(workers: Sequence[Worker]) -> Headroom:
    """The headroom of one service, from all its present workers."""
    routable = [worker for worker in workers if worker.routable]
    known = [(worker.weight, worker.utilization) for worker in routable if worker.utilization is not None]
    if not known:
        return Headroom(None, None, 0, None)
    mean = sum(weight * busy for weight, busy in known) / sum(weight for weight, _ in known)
    return Headroom(mean, max(busy for _, busy in known), len(known), _may_fail(routable, mean))


def _may_fail(routable: Sequence[Worker], mean: float) -> int:
    work = sum(w.weight * (mean if w.utilization is None else w.utilization) for w in routable)
    standing = sorted((w.weight for w in routable if w.liveness != "suspect"), reverse=True)
    capacity = sum(standing)
    failures = 0
    for weight in standing:
        capacity -= weight
        if capacity < work or capacity <= 0:
            break
        failures += 1
    return failures


class ScaleOutSignal:
    """Whether more workers are wanted: with hysteresis, and only after the mean has stayed where it is for a while."""

    __slots__ = ("_crossed_at", "wanted")

    def __init__(self) -> None:
        self.wanted: bool | None = None
        """None while no load is known."""
        self._crossed_at: float | None = None

    def update(self, mean: float | None, now: float) -> bool:
        """Take in the mean of now. Returns whether the answer has changed."""
        before = self.wanted
        if mean is None:
            self.wanted, self._crossed_at = None, None
            return before is not None
        wanted = bool(before)
        crossed = mean < SCALE_OUT_BELOW if wanted else mean >= SCALE_OUT_AT
        if not crossed:
            self._crossed_at = None
        elif self._crossed_at is None:
            self._crossed_at = now
        elif now - self._crossed_at >= HOLD_SECONDS:
            wanted, self._crossed_at = not wanted, None
        self.wanted = wanted
        return before is not wanted
