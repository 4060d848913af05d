"""Which of a worker's keys this client sends to it just now: slow start and bounded load. Pure; times in seconds on
the pool's clock. The arithmetic is ring/admission.py.

The rules:

- A worker that was not routable before, and is now, starts slowly: it admits a tenth of its keys at once and all of
  them after 30 s. Whoever was in the first list ever heard of is warm, and a sidecar that restarts beside its worker
  does not make the worker new.
- A worker is overloaded by its gossiped utilization, against the mean of its release; one without a figure by the
  requests this client itself has under way there, against the mean of its release. Releases are judged apart, so that
  a canary keeps its share however few its workers are. What is not at its first owner meets a lower bound.
- By utilization a part of the keys goes on, adjusted once a second while the figure stays beside the bound. By own
  requests, which this client knows to the last one, any key goes on that finds no place.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from rumormill.client.topology import Place, Topology, nothing_known, place
from rumormill.ring.admission import (
    SLOW_START,
    admit_fraction_by_age,
    admit_fraction_by_utilization,
    places,
    utilization_bound,
)
from rumormill.ring.traffic_split import Group
from rumormill.ring.worker import Worker

READ_AGAIN: Final = 1.0
"""Seconds between two adjustments by utilization: figures are no fresher, and a part adjusted twice by one figure
would overshoot."""


@dataclass(frozen=True, slots=True)
class _ReleaseLoad:
    """The routable workers of one release, taken together."""

    capacity: float
    """Sum of their weights."""
    bound: float | None
    """The utilization one of them may have; None where none is known."""


class Admission:
    """What this client holds against sending more to each worker. Not for several threads at once."""

    def __init__(self, service: str, *, bounded: bool) -> None:
        """Without `bounded` load keeps no key from its first owner."""
        self._bounded = bounded
        self._topology = nothing_known(service)
        self._companies: dict[Group, _ReleaseLoad] = {}
        self._since: dict[Place, float] = {}
        """When those became routable that may still be starting slowly."""
        self._parts: dict[str, float] = {}
        """By instance, the part of its keys that a worker admits by its utilization; all of them without an entry."""
        self._read = float("-inf")
        self._under_way: Counter[str] = Counter()
        """Requests by release."""

    def adopt(self, topology: Topology, now: float) -> None:
        """Judge by this topology from now on."""
        before, self._topology = self._topology, topology
        if topology.workers is before.workers and topology.routing is before.routing:
            return
        self._start_slowly(before, topology, now)
        self._companies = {group: self._company(group) for group in topology.routing.rings}
        if now - self._read >= READ_AGAIN:
            self._read = now
            self._parts = self._adjusted()

    def begin(self, worker: Worker) -> None:
        """A request begins there."""
        self._under_way[worker.release] += 1

    def end(self, worker: Worker) -> None:
        """It is over."""
        self._under_way[worker.release] -= 1

    def starting(self, worker: Worker, key_place: float, now: float) -> bool:
        """Whether a key standing here goes on because the worker starts slowly."""
        since = self._since.get(place(worker))
        return since is not None and key_place >= admit_fraction_by_age(now - since)

    def overloaded(self, worker: Worker, in_flight: int, key_place: float, *, first: bool) -> bool:
        """Whether a key standing here goes on for the worker's load. `in_flight` are this client's requests there."""
        if not self._bounded:
            return False
        if worker.utilization is not None:
            return key_place >= self._parts.get(worker.instance, 1.0)
        group = self._topology.routing.gate.group(worker.release)
        company = self._companies.get(group)
        if company is None:
            return False
        return in_flight >= places(self._busy(group), worker.weight, company.capacity, first=first)

    def _busy(self, group: Group) -> int:
        if group is not None:
            return self._under_way[group]
        gate = self._topology.routing.gate
        return sum(count for release, count in self._under_way.items() if gate.group(release) is None)

    def _start_slowly(self, before: Topology, after: Topology, now: float) -> None:
        routable = {place(worker) for worker in after.routing.workers}
        known = {place(worker) for worker in before.routing.workers}
        began = {there: at for there, at in self._since.items() if there in routable and now - at < SLOW_START}
        if before.origin != "nobody":
            began |= dict.fromkeys(sorted(routable - known), now)
        self._since = began

    def _company(self, group: Group) -> _ReleaseLoad:
        routing = self._topology.routing
        members = [routing.worker(name) for name in routing.rings[group].weights]
        known = [(worker.weight, worker.utilization) for worker in members if worker.utilization is not None]
        return _ReleaseLoad(capacity=sum(worker.weight for worker in members), bound=utilization_bound(known))

    def _adjusted(self) -> dict[str, float]:
        parts = {}
        for worker in self._topology.routing.workers:
            bound = self._companies[self._topology.routing.gate.group(worker.release)].bound
            if worker.utilization is not None and bound is not None:
                part = admit_fraction_by_utilization(self._parts.get(worker.instance, 1.0), worker.utilization, bound)
                if part < 1.0:
                    parts[worker.instance] = part
        return parts
