"""Which worker to ask next. Pure but for the `random.Random` given; times in seconds on the pool's clock.

A keyed request goes along the order that the gate, the ring and the caller's zone give. One without a key draws one, so
that it has a release and a zone like any other, and goes to the less busy of two workers of these, drawn by weight.

Upon that order lie steps that never change the ring itself. A worker that starts slowly or is overloaded lets some keys
go on (admission.py); workers this client has just seen fail come after the others, suspects after those; and where no
routable worker is left, whoever lives is asked: draining, starting, critical, lately evicted. But a weight of 0 is the
operator's word and no conclusion: such a worker is never asked.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final

from rumormill.client.admission import Admission
from rumormill.client.topology import Topology, nothing_known
from rumormill.ring.gate import Group
from rumormill.ring.steps import place_of
from rumormill.ring.worker import Worker
from rumormill.ring.zones import zone_slot

FAILED_FOR = 1.0
"""Seconds a worker stays behind the others after failing. Longer, and a worker that came back waits for its keys."""
SILENT_FOR = 0.5
"""The same, after a hedge overtook it and it had said nothing to anyone meanwhile."""
LOOK_AHEAD: Final = 64
"""Owners of a key that are looked at for one that nothing speaks against; then the best of them is taken. More help
only a pool in which nearly everybody is suspected or new."""

_LAST_RESORT = {"passing": 0, "warning": 0, "draining": 1, "starting": 2, "critical": 3}
_STARTING, _OVERLOADED, _FAILED, _SUSPECT = 1, 2, 4, 8
"""What may speak against a worker; of two the one with the smaller sum is asked."""


@dataclass(slots=True)
class Standing:
    """What this client itself has seen of one worker."""

    in_flight: int = 0
    behind_until: float = 0.0
    answered: float = float("-inf")
    """When it last answered anything."""


@dataclass(frozen=True, slots=True)
class _Draw:
    """Workers to draw from by weight."""

    workers: list[Worker]
    weights: list[float]
    """Accumulated."""


class Standings:
    """All workers as this client ranks them. Not for several threads at once."""

    def __init__(self, service: str, rng: random.Random, *, zone: str | None = None, bounded: bool = True) -> None:
        """`zone` is the caller's own, None for the policy's; without `bounded` load moves no key."""
        self._rng = rng
        self._zone = zone
        self._by_url: dict[str, Standing] = {}
        self._admission = Admission(service, bounded=bounded)
        self._draws: dict[tuple[Group, bool], _Draw] = {}
        self.topology = nothing_known(service)

    def adopt(self, topology: Topology, now: float) -> None:
        """Choose from this topology from now on."""
        if topology.routing is not self.topology.routing:
            self._draws = {}
        self.topology = topology
        self._admission.adopt(topology, now)
        known = {worker.url for worker in topology.workers}
        known.update(worker.url for _, worker in topology.departed)
        for url in [url for url, standing in self._by_url.items() if url not in known and not standing.in_flight]:
            del self._by_url[url]

    def of(self, worker: Worker) -> Standing:
        return self._by_url.setdefault(worker.url, Standing())

    def begin(self, worker: Worker) -> None:
        """A request begins there."""
        self.of(worker).in_flight += 1
        self._admission.begin(worker)

    def end(self, worker: Worker) -> None:
        """It is over."""
        self.of(worker).in_flight -= 1
        self._admission.end(worker)

    def owners(self, key: bytes | str, n: int | None = None) -> list[Worker]:
        """A key's owners in order of preference, before anything speaks against them."""
        return self.topology.routing.owners(key, n, zone=self._zone)

    def pick(
        self, key: bytes | str | None, tried: Collection[str], now: float, *, last_resort: bool = True
    ) -> Worker | None:
        """The best worker whose URL is not among those tried; None when everybody has been.

        Without `last_resort`, only the routable are picked.
        """
        best = self._by_draw(tried, now) if key is None else self._by_key(key, tried, now)
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

    def _rank(self, worker: Worker, key_place: float, now: float, *, first: bool = False) -> int:
        standing = self._by_url.get(worker.url)
        in_flight = standing.in_flight if standing is not None else 0
        rank = _SUSPECT if worker.liveness == "suspect" else 0
        if standing is not None and standing.behind_until > now:
            rank |= _FAILED
        if self._admission.overloaded(worker, in_flight, key_place, first=first):
            rank |= _OVERLOADED
        if self._admission.starting(worker, key_place, now):
            rank |= _STARTING
        return rank

    def _by_key(self, key: bytes | str, tried: Collection[str], now: float) -> Worker | None:
        key_place = place_of(key)
        best, best_rank = None, 2 * _SUSPECT
        order = enumerate(self.topology.routing.walk(key, zone=self._zone))
        untried = ((turn, worker) for turn, worker in order if worker.url not in tried)
        for turn, worker in islice(untried, LOOK_AHEAD):
            rank = self._rank(worker, key_place, now, first=turn == 0)
            if rank < best_rank:
                best, best_rank = worker, rank
                if rank == 0:
                    break
        return best

    def _by_draw(self, tried: Collection[str], now: float) -> Worker | None:
        if not self.topology.routing.rings:
            return None
        key = self._rng.randbytes(8)
        key_place = place_of(key)
        draw = self._drawn_from(key)
        pair = self._rng.choices(draw.workers, cum_weights=draw.weights, k=2)
        good = [w for w in pair if w.url not in tried and self._rank(w, key_place, now) == 0]
        return min(good, key=self._load) if good else self._by_key(key, tried, now)

    def _drawn_from(self, key: bytes) -> _Draw:
        """The workers of the key's release: those in the caller's zone if the key stays there, else the others."""
        routing = self.topology.routing
        zone = routing.policy.zone if self._zone is None else self._zone
        group = next(routing.groups(key))
        stays = bool(zone) and zone_slot(key) < routing.kept(zone, group)
        draw = self._draws.get((group, stays))
        if draw is None:
            everyone = [routing.worker(name) for name in routing.rings[group].weights]
            workers = [worker for worker in everyone if not zone or (worker.zone == zone) == stays] or everyone
            draw = _Draw(workers, list(accumulate(worker.weight for worker in workers)))
            self._draws[group, stays] = draw
        return draw

    def _load(self, worker: Worker) -> float:
        standing = self._by_url.get(worker.url)
        return ((standing.in_flight if standing else 0) + 1) / worker.weight

    def _last_resort(self, tried: Collection[str], now: float) -> Worker | None:
        unready = (worker for worker in self.topology.workers if not worker.routable and worker.weight)
        order = sorted(
            unready, key=lambda one: (_LAST_RESORT[one.readiness], self._rank(one, 0.0, now), self._load(one))
        )
        departed = (worker for _, worker in self.topology.departed if worker.weight)
        return next(self._untried([*order, *departed], tried), None)

    def _untried(self, workers: Iterable[Worker], tried: Collection[str]) -> Iterator[Worker]:
        return (worker for worker in workers if worker.url not in tried)
