"""Which worker to ask next. Pure but for the `random.Random` given; times in seconds on the pool's clock.

A keyed request goes along the ring, an unkeyed one to the less busy of two drawn by weight. Upon that order lie three
steps that never change the ring itself: workers this client has just seen fail come after the others, suspects after
those, and where no routable worker is left, whoever lives is asked: draining, starting, critical, lately evicted.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from rumormill.client.topology import Topology, nothing_known
from rumormill.ring.worker import Worker

FAILED_FOR = 1.0
"""Seconds a worker stays behind the others after failing. Longer, and a worker that came back waits for its keys."""
SILENT_FOR = 0.5
"""The same, after a hedge overtook it and it had said nothing to anyone meanwhile."""

_LAST_RESORT = {"passing": 0, "warning": 0, "draining": 1, "starting": 2, "critical": 3}


@dataclass(slots=True)
class Standing:
    """What this client itself has seen of one worker."""

    in_flight: int = 0
    behind_until: float = 0.0
    answered: float = float("-inf")
    """When it last answered anything."""


class Standings:
    """All workers as this client ranks them. Not for several threads at once."""

    def __init__(self, service: str, rng: random.Random) -> None:
        self._rng = rng
        self._by_instance: dict[str, Standing] = {}
        self.topology = nothing_known(service)
        self._routable: tuple[Worker, ...] = ()
        self._weights: list[float] = []

    def adopt(self, topology: Topology) -> None:
        """Choose from this topology from now on."""
        self.topology = topology
        self._routable = topology.routing.workers
        self._weights = list(accumulate(worker.weight for worker in self._routable))
        known = {worker.instance for worker in topology.workers}
        known.update(worker.instance for _, worker in topology.departed)
        for instance in [i for i, standing in self._by_instance.items() if i not in known and not standing.in_flight]:
            del self._by_instance[instance]

    def of(self, worker: Worker) -> Standing:
        return self._by_instance.setdefault(worker.instance, Standing())

    def pick(
        self, key: bytes | str | None, tried: Collection[str], now: float, *, last_resort: bool = True
    ) -> Worker | None:
        """The best worker whose instance is not among those tried; None when everybody has been.

        Without `last_resort`, only the routable are picked.
        """
        if key is None:
            best = self._less_busy(tried, now)
        else:
            order = (worker for worker in self.topology.routing.walk(key) if worker.instance not in tried)
            best = self._first_of_best_rank(order, now)
        return best or (self._last_resort(tried, now) if last_resort else None)

    def failed(self, worker: Worker, now: float) -> None:
        """It could not be reached, or died on us."""
        self.of(worker).behind_until = now + FAILED_FOR

    def overtaken(self, worker: Worker, since: float, now: float) -> None:
        """A hedge was quicker. That says nothing of a worker that has answered others since; a silent one may hang."""
        standing = self.of(worker)
        if standing.answered < since:
            standing.behind_until = max(standing.behind_until, now + SILENT_FOR)

    def answered(self, worker: Worker, now: float) -> None:
        standing = self.of(worker)
        standing.answered, standing.behind_until = now, 0.0

    def _rank(self, worker: Worker, now: float) -> int:
        standing = self._by_instance.get(worker.instance)
        behind = standing is not None and standing.behind_until > now
        return 2 * (worker.liveness == "suspect") + behind

    def _first_of_best_rank(self, order: Iterable[Worker], now: float) -> Worker | None:
        best, best_rank = None, 4
        for worker in order:
            rank = self._rank(worker, now)
            if rank == 0:
                return worker
            if rank < best_rank:
                best, best_rank = worker, rank
        return best

    def _less_busy(self, tried: Collection[str], now: float) -> Worker | None:
        if not self._routable:
            return None
        pair = self._rng.choices(self._routable, cum_weights=self._weights, k=2)
        if all(worker.instance not in tried and self._rank(worker, now) == 0 for worker in pair):
            return min(pair, key=self._load)
        untried = [worker for worker in self._routable if worker.instance not in tried]
        best = min((self._rank(worker, now) for worker in untried), default=0)
        equals = [worker for worker in untried if self._rank(worker, now) == best]
        if not equals:
            return None
        return min(self._rng.choices(equals, [worker.weight for worker in equals], k=2), key=self._load)

    def _load(self, worker: Worker) -> float:
        standing = self._by_instance.get(worker.instance)
        return ((standing.in_flight if standing else 0) + 1) / worker.weight

    def _last_resort(self, tried: Collection[str], now: float) -> Worker | None:
        unready = (worker for worker in self.topology.workers if not worker.routable)
        order = sorted(unready, key=lambda worker: (_LAST_RESORT[worker.readiness], self._rank(worker, now)))
        return next(self._untried([*order, *(worker for _, worker in self.topology.departed)], tried), None)

    def _untried(self, workers: Iterable[Worker], tried: Collection[str]) -> Iterator[Worker]:
        return (worker for worker in workers if worker.instance not in tried)
