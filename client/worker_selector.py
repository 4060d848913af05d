"""Which worker to ask next. Pure but for the `random.Random` given; times in seconds on the pool's clock.

A keyed request goes along the order that the gate, the ring and the caller's zone give. One without a key draws one, so
that it has a release and a zone like any other, and goes to the less busy of two workers of these, drawn by weight.

Upon that order lie steps that never change the ring itself. A worker that starts slowly or is overloaded lets some keys
go on (admission.py), and so does one that said it has enough to do; workers that keep failing come after the others
(breaker.py), suspects after those; and where no routable worker is left, whoever lives is asked: draining, starting,
critical, lately evicted. But a weight of 0 is the operator's word and no conclusion: such a worker is never asked.

What a worker answers never holds more than half of the routable ones behind the others: if more of them fail, the cause
is likelier to be theirs all, and the few left would be asked for everything. The failures of the others count as
requests under way, so that a quick failure does not look like an idle worker.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final

from rumormill.client.admission import Admission
from rumormill.client.answers import Judgement
from rumormill.client.breaker import Breaker, Why
from rumormill.client.topology import Topology, nothing_known
from rumormill.ring.admission import key_fraction
from rumormill.ring.traffic_split import Group
from rumormill.ring.worker import Worker
from rumormill.ring.zones import zone_slot

MAX_OWNERS_TRIED: Final = 64
"""Owners of a key that are looked at for one that nothing speaks against; then the best of them is taken. More help
only a pool in which nearly everybody is suspected or new."""

_LAST_RESORT = {"passing": 0, "warning": 0, "draining": 1, "starting": 2, "critical": 3}
_STARTING, _OVERLOADED, _FAILED, _SUSPECT = 1, 2, 4, 8
"""What may speak against a worker; of two the one with the smaller sum is asked."""


@dataclass(slots=True)
class WorkerRecord:
    """What this client itself has seen of one worker."""

    breaker: Breaker
    in_flight: int = 0
    full_until: float = 0.0
    """Until when it has enough to do, as it said."""
    full_for: float = 0.0
    """How long it says so; 0 once it has taken a request again."""
    answered: float = float("-inf")
    """When it last answered anything."""

    def let_try(self, now: float) -> None:
        """A request goes there. Where the worker was held back until now, it is the only one that does for a while."""
        self.breaker.let_try(now)
        if self.full_for and now >= self.full_until:
            self.full_until = now + self.full_for

    def note_load(self, full_for: float, began: float, now: float) -> None:
        """A request that began then was answered, by a worker with enough to do for so long."""
        if full_for:
            self.full_until, self.full_for = now + full_for, full_for
        elif began >= self.full_until - self.full_for:
            self.full_until = self.full_for = 0.0


@dataclass(frozen=True, slots=True)
class _Draw:
    """Workers to draw from by weight."""

    workers: list[Worker]
    weights: list[float]
    """Accumulated."""


class WorkerSelector:
    """All workers as this client ranks them. Not for several threads at once."""

    def __init__(self, service: str, rng: random.Random, *, zone: str | None = None, bounded: bool = True) -> None:
        """`zone` is the caller's own, None for the policy's; without `bounded` load moves no key."""
        self._rng = rng
        self._zone = zone
        self._by_url: dict[str, WorkerRecord] = {}
        self._admission = Admission(service, bounded=bounded)
        self._draws: dict[tuple[Group, bool], _Draw] = {}
        self._answered = float("-inf")
        """When any worker last answered anything."""
        self.suspects: frozenset[str] = frozenset()
        """URLs of workers that others doubt are alive: suspected, or lately evicted."""
        self.critical: frozenset[str] = frozenset()
        """URLs of workers that answer their sidecar's checks wrongly, or not at all."""
        self.topology = nothing_known(service)

    def adopt(self, topology: Topology, now: float) -> None:
        """Choose from this topology from now on."""
        before, self.topology = self.topology, topology
        self._admission.adopt(topology, now)
        known = {worker.url for worker in topology.workers}
        known.update(worker.url for _, worker in topology.departed)
        for url in [url for url, standing in self._by_url.items() if url not in known and not standing.in_flight]:
            del self._by_url[url]
        if topology.routing is not before.routing:
            self._draws = {}
            self._hold_no_more_than_half(now)
        if topology.workers is not before.workers:
            self.suspects = frozenset(_suspects(topology))
            self.critical = frozenset(worker.url for worker in topology.workers if worker.readiness == "critical")
            self._hear_of_recoveries(before, now)

    def _hear_of_recoveries(self, before: Topology, now: float) -> None:
        """Whoever has begun anew, or is found well again by its sidecar, may be tried at once."""
        routable = {worker.instance for worker in before.workers if worker.routable}
        for worker in self.topology.workers:
            standing = self._by_url.get(worker.url)
            if standing is not None and worker.routable and worker.instance not in routable:
                standing.breaker.try_again(now)

    def of(self, worker: Worker) -> WorkerRecord:
        standing = self._by_url.get(worker.url)
        if standing is None:
            standing = self._by_url[worker.url] = WorkerRecord(Breaker(self._rng))
        return standing

    def doubted(self, worker: Worker) -> bool:
        """Whether a worker that was asked while nothing spoke against it has become suspect, or was evicted, since."""
        return worker.liveness != "suspect" and worker.url in self.suspects

    def unwell(self, worker: Worker) -> bool:
        """Whether it has become critical since it was asked: busy, perhaps, and perhaps ill."""
        return worker.readiness != "critical" and worker.url in self.critical

    def in_doubt(self, worker: Worker, began: float) -> bool:
        """Whether there is reason to doubt that a worker asked then still works."""
        standing = self.of(worker)
        others_answered = standing.answered < began < self._answered
        return others_answered or not standing.breaker.closed or self.doubted(worker)

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
        best = best or (self._last_resort(tried, now) if last_resort else None)
        if best is not None and best.url in self._by_url:
            self._by_url[best.url].let_try(now)
        return best

    def failed(self, worker: Worker, began: float, now: float) -> None:
        """It could not be reached, or died on a request that began then."""
        breaker = self.of(worker).breaker
        if breaker.is_news(began):
            breaker.open(Why.UNREACHABLE, now)

    def overtaken(self, worker: Worker, began: float, now: float) -> None:
        """A hedge or the caller's limit was quicker than a request that began there then.

        That says nothing of a worker that has answered others since; a silent one may hang.
        """
        standing = self.of(worker)
        if standing.answered < began and standing.breaker.is_news(began):
            standing.breaker.open(Why.SILENT, now)

    def answered(self, worker: Worker, judgement: Judgement, began: float, now: float) -> bool:
        """It answered a request that began then.

        Returns False where it fails too often and is yet not held behind the others, as half of them are held already.
        """
        standing = self.of(worker)
        standing.answered = self._answered = now
        standing.note_load(judgement.full_for, began, now)
        breaker = standing.breaker
        if not judgement.sick:
            breaker.succeeded(began, now)
            return True
        if not breaker.is_news(began) or not (breaker.failed(now) or not breaker.closed):
            return True
        if breaker.by_answers or 2 * (len(self._held()) + 1) <= len(self.topology.routing.workers):
            breaker.open(Why.ANSWERS, now)
            return True
        if not breaker.closed:
            breaker.close(now)
        return False

    def _held(self) -> list[Breaker]:
        """The breakers that answers alone have opened, of workers that could be asked."""
        standings = (self._by_url.get(worker.url) for worker in self.topology.routing.workers)
        return [standing.breaker for standing in standings if standing is not None and standing.breaker.by_answers]

    def _hold_no_more_than_half(self, now: float) -> None:
        held = self._held()
        for breaker in held[: max(len(held) - len(self.topology.routing.workers) // 2, 0)]:
            breaker.close(now)

    def _rank(self, worker: Worker, key_place: float, now: float, *, first: bool = False) -> int:
        standing = self._by_url.get(worker.url)
        in_flight = standing.in_flight if standing is not None else 0
        rank = _SUSPECT if worker.liveness == "suspect" else 0
        if standing is not None and standing.breaker.holds(now):
            rank |= _FAILED
        if standing is not None and standing.full_until > now:
            rank |= _OVERLOADED
        if self._admission.overloaded(worker, in_flight, key_place, first=first):
            rank |= _OVERLOADED
        if self._admission.starting(worker, key_place, now):
            rank |= _STARTING
        return rank

    def _by_key(self, key: bytes | str, tried: Collection[str], now: float) -> Worker | None:
        key_place = key_fraction(key)
        best, best_rank = None, 2 * _SUSPECT
        order = enumerate(self.topology.routing.walk(key, zone=self._zone))
        untried = ((turn, worker) for turn, worker in order if worker.url not in tried)
        for turn, worker in islice(untried, MAX_OWNERS_TRIED):
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
        key_place = key_fraction(key)
        draw = self._drawn_from(key)
        pair = self._rng.choices(draw.workers, cum_weights=draw.weights, k=2)
        good = [w for w in pair if w.url not in tried and self._rank(w, key_place, now) == 0]
        return min(good, key=lambda worker: self._load(worker, now)) if good else self._by_key(key, tried, now)

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

    def _load(self, worker: Worker, now: float) -> float:
        standing = self._by_url.get(worker.url)
        under_way = 0 if standing is None else standing.in_flight + standing.breaker.failures(now)
        return (under_way + 1) / worker.weight

    def _last_resort(self, tried: Collection[str], now: float) -> Worker | None:
        unready = (worker for worker in self.topology.workers if not worker.routable and worker.weight)
        order = sorted(
            unready, key=lambda one: (_LAST_RESORT[one.readiness], self._rank(one, 0.0, now), self._load(one, now))
        )
        departed = (worker for _, worker in self.topology.departed if worker.weight)
        return next(self._untried([*order, *departed], tried), None)

    def _untried(self, workers: Iterable[Worker], tried: Collection[str]) -> Iterator[Worker]:
        return (worker for worker in workers if worker.url not in tried)


def _suspects(topology: Topology) -> Iterator[str]:
    """The URLs of workers that others doubt are alive. A draining one finishes what it has, and may go quietly."""
    for worker in topology.workers:
        if worker.liveness == "suspect" and worker.readiness != "draining":
            yield worker.url
    yield from (worker.url for _, worker in topology.departed)
