"""Which of a worker's keys this client sends to it now: slow start, slow workers and bounded load. Pure; times in
seconds on the pool's clock. The arithmetic is in ring/admission.py.

The rules:

- A worker that becomes routable starts slowly: it admits a tenth of its keys at once, and all of them after 30 s. The
  workers of the first list are warm already. A sidecar that restarts beside its worker does not make the worker new.
- A worker in readiness *warning* answers rightly and late. It admits half of its keys.
- A worker is overloaded if its gossiped utilization is above a bound, which follows the mean of its release. Without a
  utilization, the client's own requests in flight there count, against the mean of the release. Releases are judged
  separately, so that a canary keeps its share however few workers it has. Keys that are not at their first owner meet a
  lower bound.
- By utilization, a fraction of the worker's keys moves on. It is adjusted once a second until the figure is at the
  bound. By own requests, whose number is exact, each key that finds no room moves on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rumormill.client.discovery.topology import Topology, WorkerEndpoint, endpoint_of, nothing_known
from rumormill.ring.admission import (
    FREE_SLOTS,
    SLOW_START_SECONDS,
    admit_fraction_by_age,
    admit_fraction_by_readiness,
    admit_fraction_by_utilization,
    request_limit,
    utilization_bound,
)
from rumormill.ring.traffic_split import Group
from rumormill.ring.worker import Worker

STARTING, SLOW, OVERLOADED = 1, 2, 4
"""Why a worker does not get a key. Larger numbers weigh more."""
ADJUST_EVERY: Final = 1.0
"""Minimum seconds between two adjustments by utilization. The figures are no fresher, and a fraction adjusted twice by
one figure would overshoot."""


@dataclass(frozen=True, slots=True)
class _ReleaseLoad:
    """The routable workers of one release, taken together."""

    capacity: float
    """Sum of their weights."""
    bound: float | None
    """The utilization above which one of them is overloaded. None if no utilization is known."""


class Admission:
    """What keeps this client from sending more to each worker. Not thread-safe."""

    def __init__(self, service: str, *, bounded: bool) -> None:
        """Without `bounded`, load never moves a key from its first owner."""
        self._bounded = bounded
        self._topology = nothing_known(service)
        self._release_loads: dict[Group, _ReleaseLoad] = {}
        self._routable_since: dict[WorkerEndpoint, float] = {}
        """For workers that may still be in slow start."""
        self._admit_fractions: dict[str, float] = {}
        """By instance: the fraction of its keys that a worker admits by its utilization. Without an entry it is 1."""
        self._adjusted_at = float("-inf")
        self._loads: Mapping[str, float] | None = None
        """The utilization of each worker whose load is known, by instance; None while the list of workers says it."""
        self._in_flight: Counter[str] = Counter()
        """Requests by release."""

    def update(self, topology: Topology, now: float) -> None:
        """Use this topology from now on."""
        before, self._topology = self._topology, topology
        if topology.workers is before.workers and topology.routing is before.routing:
            return
        self._update_slow_start(before, topology, now)
        self._apply_loads(now)

    def set_loads(self, utilization: Mapping[str, float], now: float) -> None:
        """Use these utilizations, by instance, instead of those in the list of workers."""
        self._loads = utilization
        self._apply_loads(now)

    def utilization(self, worker: Worker) -> float | None:
        """The worker's utilization as last heard; None if it is unknown."""
        return worker.utilization if self._loads is None else self._loads.get(worker.instance)

    def _apply_loads(self, now: float) -> None:
        topology = self._topology
        self._release_loads = {group: self._release_load(group) for group in topology.routing.rings}
        known = any(load.bound is not None for load in self._release_loads.values())
        if now - self._adjusted_at >= ADJUST_EVERY:
            self._adjusted_at = now if known else self._adjusted_at
            self._admit_fractions = self._adjusted_fractions()

    def begin_request(self, worker: Worker) -> None:
        self._in_flight[worker.release] += 1

    def end_request(self, worker: Worker) -> None:
        self._in_flight[worker.release] -= 1

    def penalties(self, worker: Worker, in_flight: int, fraction: float, now: float, *, first: bool) -> int:
        """Why a key with this fraction moves on to another worker: the sum of the reasons, 0 for none.

        `in_flight` counts this client's requests there. `first` says whether the worker is the key's first owner.
        """
        found = OVERLOADED if self._bounded and self._overloaded(worker, in_flight, fraction, first=first) else 0
        if worker.readiness == "warning" and fraction >= admit_fraction_by_readiness(worker.readiness):
            found |= SLOW
        if self._routable_since and self._in_slow_start(worker, fraction, now):
            found |= STARTING
        return found

    def _in_slow_start(self, worker: Worker, fraction: float, now: float) -> bool:
        since = self._routable_since.get(endpoint_of(worker))
        return since is not None and fraction >= admit_fraction_by_age(now - since)

    def _overloaded(self, worker: Worker, in_flight: int, fraction: float, *, first: bool) -> bool:
        if self.utilization(worker) is not None:
            return fraction >= self._admit_fractions.get(worker.instance, 1.0)
        if in_flight < FREE_SLOTS * worker.weight:
            return False
        group = self._topology.routing.traffic_split.group(worker.release)
        load = self._release_loads.get(group)
        if load is None:
            return False
        return in_flight >= request_limit(self._group_in_flight(group), worker.weight, load.capacity, first=first)

    def _group_in_flight(self, group: Group) -> int:
        if group is not None:
            return self._in_flight[group]
        split = self._topology.routing.traffic_split
        return sum(count for release, count in self._in_flight.items() if split.group(release) is None)

    def _update_slow_start(self, before: Topology, after: Topology, now: float) -> None:
        routable = {endpoint_of(worker) for worker in after.routing.workers}
        known = {endpoint_of(worker) for worker in before.routing.workers}
        since = {
            endpoint: at
            for endpoint, at in self._routable_since.items()
            if endpoint in routable and now - at < SLOW_START_SECONDS
        }
        if before.origin != "nobody":
            since |= dict.fromkeys(sorted(routable - known), now)
        self._routable_since = since

    def _release_load(self, group: Group) -> _ReleaseLoad:
        routing = self._topology.routing
        members = [routing.worker(name) for name in routing.rings[group].weights]
        known = [(worker.weight, busy) for worker in members if (busy := self.utilization(worker)) is not None]
        return _ReleaseLoad(capacity=sum(worker.weight for worker in members), bound=utilization_bound(known))

    def _adjusted_fractions(self) -> dict[str, float]:
        fractions = {}
        for worker in self._topology.routing.workers:
            bound = self._release_loads[self._topology.routing.traffic_split.group(worker.release)].bound
            busy = self.utilization(worker)
            if busy is not None and bound is not None:
                before = self._admit_fractions.get(worker.instance, 1.0)
                fraction = admit_fraction_by_utilization(before, busy, bound)
                if fraction < 1.0:
                    fractions[worker.instance] = fraction
        return fractions
