"""Which worker to ask next. Pure, apart from the given `random.Random`; times in seconds on the pool's clock.

A request with a key tries workers in the order that the traffic split, the ring and the caller's zone give. A request
without one draws a key, so that it has a release and a zone like any other. It then goes to the better of two workers
of that release and zone, drawn by weight (power of two choices): the one that has less to do, unless it is clearly
slower (worker_cost.py).

The client refines that order without ever changing the ring. A worker in slow start, a slow worker and one under too
much load pass some keys on (admission.py), and so does a worker that answered 429. Workers with an open breaker come
after the others (breaker.py), and suspects come after those. If no routable worker is left, any live worker is a last
resort: draining, starting, critical, recently evicted. But a weight of 0 is the operator's decision: such a worker is
never asked.

Answers alone never open the breakers of more than half of the routable workers (Envoy's maximum ejection percentage).
If more of them fail, the cause is probably common to all, and the few left would get every request. A worker's recent
failures count as requests in flight, so that quick failures do not make it look idle.

If the last outcome of every worker was a failure or a refusal, there is an outage. Then a request tries only one
worker, but for a few (retry_budget.py): asking each of them would multiply the load, and help nobody.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, islice
from typing import Final

from rumormill.client.discovery.request_counts import RequestCounts
from rumormill.client.discovery.topology import Topology, nothing_known
from rumormill.client.rules.response_class import ResponseClass
from rumormill.client.selection.admission import OVERLOADED, SLOW, Admission
from rumormill.client.selection.breaker import Breaker, BreakerState, OpenReason
from rumormill.client.selection.slow_owner import SlowOwner
from rumormill.client.selection.worker_cost import LatencyEstimate, ObservedLoad, costs_more, is_worse
from rumormill.ring.admission import key_fraction
from rumormill.ring.traffic_split import Group
from rumormill.ring.worker import Worker
from rumormill.ring.zones import zone_slot

MAX_OWNERS_TRIED: Final = 64
"""How many owners of a key are examined for one without a penalty; then the best of them is taken. More helps only if
nearly every worker is suspect or new."""

_LAST_RESORT_ORDER = {"passing": 0, "warning": 0, "draining": 1, "starting": 2, "critical": 3}
BREAKER_OPEN, SUSPECT = 8, 16
"""Penalties of a worker, beside those of admission.py. The worker with the smallest sum is asked."""


OnBreaker = Callable[[Worker, BreakerState, float], object]
"""Is told that a worker's breaker has changed its state, and when."""


@dataclass(slots=True)
class WorkerStats:
    """What this client itself has seen of one worker."""

    breaker: Breaker
    in_flight: int = 0
    overloaded_until: float = 0.0
    """Until then the worker is overloaded, by its own word."""
    overloaded_for: float = 0.0
    """The seconds that it named; 0 once it has accepted a request again."""
    failing: bool = False
    """Its last outcome was a failure or a refusal."""
    last_answer: float = float("-inf")
    """When it last answered anything."""
    latency: LatencyEstimate = field(default_factory=LatencyEstimate)
    pace: SlowOwner = field(default_factory=SlowOwner)

    def on_request(self, now: float, asked: int) -> None:
        """A request goes to the worker, the pool's `asked`-th. If the worker was avoided, only this one probes it."""
        self.breaker.on_request(now)
        self.latency.on_request(now, asked)
        if self.pace.slow:
            self.pace.on_request(now, asked)
        if self.overloaded_for and now >= self.overloaded_until:
            self.overloaded_until = now + self.overloaded_for

    def record_load(self, overloaded_for: float, began: float, now: float) -> None:
        """A request that began then was answered. The worker may have named seconds for which it is overloaded."""
        if overloaded_for:
            self.overloaded_until, self.overloaded_for = now + overloaded_for, overloaded_for
        elif began >= self.overloaded_until - self.overloaded_for:
            self.overloaded_until = self.overloaded_for = 0.0


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Workers to draw from by weight."""

    workers: list[Worker]
    cumulative_weights: list[float]

    def draw_two(self, rng: random.Random) -> tuple[Worker, Worker, bool]:
        """Two workers by weight. The third says whether the first was drawn twice; the second is then any other."""
        workers = self.workers
        if len(workers) == 1:
            return workers[0], workers[0], True
        one, other = self._draw(rng), self._draw(rng)
        if one != other:
            return workers[one], workers[other], False
        # Mostly it stays: a worker of twice the weight is drawn twice more often. But a bad one has an alternative.
        return workers[one], workers[one - 1 - int(rng.random() * (len(workers) - 1))], True

    def _draw(self, rng: random.Random) -> int:
        # As random.choices draws, at a third of its cost.
        return bisect(self.cumulative_weights, rng.random() * self.cumulative_weights[-1], 0, len(self.workers) - 1)


class WorkerSelector:
    """All workers as this client ranks them. Not thread-safe."""

    def __init__(self, service: str, rng: random.Random, *, zone: str | None = None, bounded: bool = True) -> None:
        """`zone` is the caller's own; None takes the policy's. Without `bounded`, load moves no key."""
        self.rng = rng
        self._zone = zone
        self._bounded = bounded
        self._by_url: dict[str, WorkerStats] = {}
        self._admission = Admission(service, bounded=bounded)
        self.counts = RequestCounts()
        """Requests under way and finished at each worker, for the sidecars."""
        self.on_breaker: OnBreaker = _ignore
        self._candidates: dict[tuple[Group, bool], _Candidates] = {}
        self._asked = 0
        """How many requests have been given a worker."""
        self._last_answer = float("-inf")
        """When any worker last answered anything."""
        self.suspects: frozenset[str] = frozenset()
        """URLs of suspect or recently evicted workers."""
        self.critical: frozenset[str] = frozenset()
        """URLs of workers that fail their sidecar's check."""
        self.preferred_zone = zone or ""
        """The zone whose workers come first; "" for none."""
        self.topology = nothing_known(service)

    def update(self, topology: Topology, now: float) -> None:
        """Choose from this topology from now on."""
        before, self.topology = self.topology, topology
        self.preferred_zone = topology.routing.policy.zone if self._zone is None else self._zone
        self._admission.update(topology, now)
        self.counts.update(topology)
        known = {worker.url for worker in topology.workers}
        known.update(worker.url for _, worker in topology.departed)
        for url in [url for url, stats in self._by_url.items() if url not in known and not stats.in_flight]:
            del self._by_url[url]
        if topology.routing is not before.routing:
            self._candidates = {}
            self._close_excess_breakers(now)
        if topology.workers is not before.workers:
            self.suspects = frozenset(_suspects(topology))
            self.critical = frozenset(worker.url for worker in topology.workers if worker.readiness == "critical")
            self._half_open_recovered(before, now)

    def _half_open_recovered(self, before: Topology, now: float) -> None:
        """A worker that has restarted, or passes its sidecar's check again, may be probed at once."""
        routable = {worker.instance for worker in before.workers if worker.routable}
        for worker in self.topology.workers:
            stats = self._by_url.get(worker.url)
            if stats is not None and worker.routable and worker.instance not in routable:
                stats.breaker.half_open(now)
                stats.failing = False

    def stats(self, worker: Worker) -> WorkerStats:
        stats = self._by_url.get(worker.url)
        if stats is None:
            breaker = Breaker(self.rng, partial(self._breaker_changed, worker))
            stats = self._by_url[worker.url] = WorkerStats(breaker)
        return stats

    def _breaker_changed(self, worker: Worker, state: BreakerState, now: float) -> None:
        self.on_breaker(worker, state, now)

    def became_suspect(self, worker: Worker) -> bool:
        """Whether the worker was not suspect when it was asked, and is suspect or evicted now."""
        return worker.liveness != "suspect" and worker.url in self.suspects

    def became_critical(self, worker: Worker) -> bool:
        """Whether the worker was not critical when it was asked, and is now."""
        return worker.readiness != "critical" and worker.url in self.critical

    def looks_unresponsive(self, worker: Worker, began: float) -> bool:
        """Whether a worker that was asked at `began` may not be working any more."""
        stats = self.stats(worker)
        only_others_answered = stats.last_answer < began < self._last_answer
        return only_others_answered or not stats.breaker.is_closed or self.became_suspect(worker)

    def utilization(self, worker: Worker) -> float | None:
        """The worker's utilization as last heard; None if it is unknown."""
        return self._admission.utilization(worker)

    def set_loads(self, utilization: Mapping[str, float], now: float) -> None:
        """Use these utilizations, by instance, until the next ones. A worker without one counts as unknown."""
        self._admission.set_loads(utilization, now)

    def begin_request(self, worker: Worker) -> None:
        self.stats(worker).in_flight += 1
        self._admission.begin_request(worker)
        self.counts.begin(worker)

    def end_request(self, worker: Worker, *, finished: bool = True) -> None:
        """The request is over; ``finished`` says whether the worker answered it to its end."""
        self.stats(worker).in_flight -= 1
        self._admission.end_request(worker)
        self.counts.end(worker, finished=finished)

    def owners(self, key: bytes | str, n: int | None = None) -> list[Worker]:
        """A key's owners in order of preference, before any penalty."""
        return self.topology.routing.owners(key, n, zone=self._zone)

    def pick(
        self, key: bytes | str | None, tried: Collection[str], now: float, *, last_resort: bool = True
    ) -> Worker | None:
        """The best worker whose URL is not in `tried`, or None.

        Without `last_resort`, only routable workers are picked.
        """
        best = self._pick_unkeyed(tried, now) if key is None else self._pick_keyed(key, tried, now)
        if best is None and last_resort:
            best = next((worker for worker in self.last_resort(now) if worker.url not in tried), None)
        if best is not None:
            self._asked += 1
            stats = self._by_url.get(best.url)
            if stats is not None:
                stats.on_request(now, self._asked)
        return best

    def record_unreachable(self, worker: Worker, began: float, now: float) -> None:
        """The worker could not be reached, or it died during a request that began then."""
        stats = self.stats(worker)
        stats.failing = True
        if stats.breaker.is_new_evidence(began):
            stats.breaker.open(OpenReason.UNREACHABLE, now)

    def record_no_answer(self, worker: Worker, began: float, now: float) -> None:
        """A hedge or the caller's timeout was quicker than a request that began then.

        This counts only if the worker has answered nobody since: it may hang.
        """
        stats = self.stats(worker)
        stats.latency.record_at_least(now - began, now, self._asked)
        if stats.last_answer < began and stats.breaker.is_new_evidence(began):
            stats.failing = True
            stats.breaker.open(OpenReason.UNRESPONSIVE, now)

    def record_answer(
        self, worker: Worker, response_class: ResponseClass, began: float, now: float, typical: float | None = None
    ) -> bool:
        """The worker answered a request that began then. `typical` is the median of such requests, if it is known.

        Returns False if it fails too often and its breaker still stays closed, because half of the workers have open
        breakers already.
        """
        stats = self.stats(worker)
        stats.last_answer = self._last_answer = now
        stats.record_load(response_class.overloaded_for, began, now)
        if response_class.success:
            stats.latency.record(now - began, now, self._asked)
            if typical is not None:
                stats.pace.record(now - began, typical, now, self._asked)
        stats.failing = response_class.worker_failed or response_class.overloaded_for > 0
        breaker = stats.breaker
        if not response_class.worker_failed:
            breaker.record_success(began, now)
            return True
        if not breaker.is_new_evidence(began) or not (breaker.record_failure(now) or not breaker.is_closed):
            return True
        opened = len(self._opened_by_errors())
        if breaker.opened_by_errors or 2 * (opened + 1) <= len(self.topology.routing.workers):
            breaker.open(OpenReason.ERRORS, now)
            return True
        if not breaker.is_closed:
            breaker.close(now)
        return False

    @property
    def outage(self) -> bool:
        """Whether the last outcome of every worker that might be asked was a failure or a refusal.

        Unready workers count: one that is busy may look critical, and it is asked when the last routable one dies.
        """
        topology = self.topology
        workers = [worker for worker in topology.workers if worker.weight]
        known = (self._by_url.get(worker.url) for worker in workers or (gone for _, gone in topology.departed))
        return all(stats is not None and stats.failing for stats in known)

    def _opened_by_errors(self) -> list[Breaker]:
        """The breakers of routable workers that answers alone have opened."""
        known = (self._by_url.get(worker.url) for worker in self.topology.routing.workers)
        return [stats.breaker for stats in known if stats is not None and stats.breaker.opened_by_errors]

    def _close_excess_breakers(self, now: float) -> None:
        """Keep at most half of the breakers open after routable workers have gone."""
        opened = self._opened_by_errors()
        for breaker in opened[: max(len(opened) - len(self.topology.routing.workers) // 2, 0)]:
            breaker.close(now)

    def rank(self, worker: Worker, fraction: float, now: float, *, first: bool = False) -> int:
        """The sum of a worker's penalties for a key with this fraction."""
        stats = self._by_url.get(worker.url)
        in_flight = stats.in_flight if stats is not None else 0
        rank = self._admission.penalties(worker, in_flight, fraction, now, first=first)
        if worker.liveness == "suspect":
            rank |= SUSPECT
        if stats is not None:
            if stats.breaker.is_open(now):
                rank |= BREAKER_OPEN
            if stats.overloaded_until > now:
                rank |= OVERLOADED
            if stats.pace.slow and self._bounded and stats.pace.avoided(now, self._asked):
                rank |= SLOW
        return rank

    def _pick_keyed(self, key: bytes | str, tried: Collection[str], now: float) -> Worker | None:
        fraction = key_fraction(key)
        first = self.topology.routing.first_owner(key, zone=self._zone)
        # The usual case, without the cost of a walk.
        if first is not None and first.url not in tried and self.rank(first, fraction, now, first=True) == 0:
            return first
        best, best_rank = None, 2 * SUSPECT
        order = enumerate(self.topology.routing.walk(key, zone=self._zone))
        untried = ((position, worker) for position, worker in order if worker.url not in tried)
        for position, worker in islice(untried, MAX_OWNERS_TRIED):
            rank = self.rank(worker, fraction, now, first=position == 0)
            if rank < best_rank:
                best, best_rank = worker, rank
                if rank == 0:
                    break
        return best

    def _pick_unkeyed(self, tried: Collection[str], now: float) -> Worker | None:
        if not self.topology.routing.rings:
            return None
        key = self.rng.randbytes(8)
        fraction = key_fraction(key)
        candidates = self._candidates_for(key)
        one, other, drawn_twice = candidates.draw_two(self.rng)
        good = self._is_good(one, tried, fraction, now)
        if other is not one and self._is_good(other, tried, fraction, now):
            better = is_worse if drawn_twice else costs_more
            return other if not good or better(self._load(one, now), self._load(other, now)) else one
        return one if good else self._pick_keyed(key, tried, now)

    def _is_good(self, worker: Worker, tried: Collection[str], fraction: float, now: float) -> bool:
        return worker.url not in tried and self.rank(worker, fraction, now) == 0

    def stays_in_zone(self, key: bytes | str, group: Group) -> bool:
        """Whether the key is one of those that this release's workers in the preferred zone keep."""
        zone = self.preferred_zone
        return bool(zone) and zone_slot(key) < self.topology.routing.local_basis_points(zone, group)

    def _candidates_for(self, key: bytes) -> _Candidates:
        """The workers of the key's release: in the caller's zone if the key stays there, and elsewhere if not."""
        routing, zone = self.topology.routing, self.preferred_zone
        group = next(routing.groups(key))
        stays = bool(zone) and self.stays_in_zone(key, group)
        candidates = self._candidates.get((group, stays))
        if candidates is None:
            release = [routing.worker(name) for name in routing.rings[group].weights]
            workers = [worker for worker in release if not zone or (worker.zone == zone) == stays] or release
            candidates = _Candidates(workers, list(accumulate(worker.weight for worker in workers)))
            self._candidates[group, stays] = candidates
        return candidates

    def _load(self, worker: Worker, now: float) -> ObservedLoad:
        stats = self._by_url.get(worker.url)
        if stats is None:
            return ObservedLoad(0, 0, worker.weight, None, self._admission.utilization(worker))
        failures, latency = stats.breaker.recent_failures(now), stats.latency.at(now, self._asked)
        return ObservedLoad(stats.in_flight, failures, worker.weight, latency, self._admission.utilization(worker))

    def last_resort(self, now: float) -> list[Worker]:
        """The workers that are asked if no routable one is left, the best first."""

        def preference(worker: Worker) -> tuple[int, int, float]:
            load = self._load(worker, now)
            busy = (load.in_flight + load.failures + 1) / worker.weight
            return _LAST_RESORT_ORDER[worker.readiness], self.rank(worker, 0.0, now), busy

        unready = (worker for worker in self.topology.workers if not worker.routable and worker.weight)
        departed = (worker for _, worker in self.topology.departed if worker.weight)
        return [*sorted(unready, key=preference), *departed]


def _ignore(worker: Worker, state: BreakerState, now: float) -> None:
    pass


def _suspects(topology: Topology) -> Iterator[str]:
    """The URLs of suspect and recently evicted workers. A draining suspect does not count: it finishes its requests."""
    for worker in topology.workers:
        if worker.liveness == "suspect" and worker.readiness != "draining":
            yield worker.url
    yield from (worker.url for _, worker in topology.departed)
