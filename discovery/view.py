"""Turns a pool view into what callers see. Pure: no socket, no clock, nothing random.

One :class:`RoutingView` belongs to one run of a sidecar and outlives every :class:`PoolView` it is fed. For each
service it holds a :class:`ServiceView`, replaced whenever something a caller can see has changed, and with it the
service's index. The rules:

- The index counts this process's changes of the service's answer, from 1. Another process's index means nothing.
- Every field of an answer moves the index, suspicion and isolation included. The exceptions are `since` and the load
  (`utilization`, `queue`, `load_at`, `scale_out`, …), which has an index of its own. Heartbeats and refutations are in
  no answer, so they move nothing.
- The routing digest says where keys go. Suspicion, load and the filter of a request never move it.
- An answer is encoded once per change, at the first request for it, and all callers share it.
- A service without workers has an answer and an index too, so a caller can wait for its first worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rumormill.discovery.headroom import ScaleOutSignal, headroom
from rumormill.discovery.schema.policies import routing_policies
from rumormill.discovery.service_view import ALL_SERVICES, ServiceView
from rumormill.discovery.workers import with_load, worker_from_member
from rumormill.membership.load import MemberLoad
from rumormill.membership.record import InstanceId
from rumormill.membership.view import Connectivity, Member, PoolView
from rumormill.ring.worker import RoutingPolicy, Worker

MAX_EMPTY_SERVICES: Final = 1024
"""Most services whose index is kept after their last worker has gone."""

_NO_POLICY: Final = RoutingPolicy()


class RoutingView:
    """All services of one pool, as one run of a sidecar answers them."""

    def __init__(self, *, process: str, wall_offset: float) -> None:
        if not (process.isascii() and process.replace("-", "").replace(".", "").isalnum()):
            raise ValueError(
                f"process {process!r} goes into headers: only letters, digits, '-' and '.' may stand in it"
            )
        self.process = process
        self.wall_offset = wall_offset
        self.pool: PoolView | None = None
        """What was last fed; None before the first time."""
        self.routing_changes = 0
        """How often the routing digest of a service has moved."""
        self.revision = 0
        """Moves with whatever an answer is made of, loads and times included. An answer holds while it stands."""
        self._services: dict[str, ServiceView] = {}
        self._unknown_index = 1
        """The index of every service not held."""
        self._workers: dict[bytes, tuple[Member, Worker]] = {}
        self._policies: dict[str, RoutingPolicy] = {}
        self.load_index = 1
        """Counts the changes of loads."""
        self._loads: Mapping[InstanceId, MemberLoad] = {}
        self._scale_out: dict[str, ScaleOutSignal] = {}

    def set_loads(self, loads: Mapping[InstanceId, MemberLoad], now: float) -> bool:
        """Show these loads, as known at `now`. Returns whether anything that callers see has changed; no index of
        workers moves."""
        changed = _figures(loads) != _figures(self._loads)
        self._loads = loads
        if changed and self.pool is not None:
            self.load_index += 1
            self.update(self.pool)
        signals, self._scale_out = self._scale_out, {}
        for name, view in self._services.items():
            signal = self._scale_out[name] = signals.get(name) or ScaleOutSignal()
            if signal.update(headroom(view.workers).mean, now):
                view.set_scale_out(signal.wanted)
                self.revision += 1
                changed = True
        return changed

    @property
    def scale_out(self) -> dict[str, bool]:
        """By service, whether more workers are wanted; without those whose load is unknown."""
        return {
            name: signal.wanted
            for name, signal in self._scale_out.items()
            if signal.wanted is not None and name != ALL_SERVICES
        }

    def loads(self, service: str) -> list[tuple[Worker, MemberLoad]]:
        """The workers of a service whose load is known."""
        known = (
            (worker, self._loads.get(InstanceId(bytes.fromhex(worker.instance))))
            for worker in self.service(service).workers
        )
        return [(worker, load) for worker, load in known if load is not None]

    def update(self, pool: PoolView) -> None:
        """Take in what the node now holds. Replaces the views of services that changed, and no others."""
        self.revision += 1
        # Nobody can have seen a service empty before the first view; afterwards somebody may be waiting for its first
        # worker, so that its appearing is a change, as isolation is of every answer.
        newcomer = self._unknown_index + (self.pool is not None)
        if self.pool is not None and self.pool.connectivity is not pool.connectivity:
            self._unknown_index += 1
        self.pool = pool
        self._policies = routing_policies(pool.policies)
        for service, workers in self._workers_by_service(pool).items():
            self._update_service(service, tuple(workers), newcomer)
        self._forget_empty()

    def set_wall_offset(self, wall_offset: float) -> None:
        """Use another offset for times. No index moves."""
        self.wall_offset = wall_offset
        self._workers.clear()
        if self.pool is not None:
            self.update(self.pool)

    def service(self, name: str) -> ServiceView:
        """One service, or all together under the empty name. Never fails: an unknown one is empty."""
        view = self._services.get(name)
        return view if view is not None else self._view(name, self._unknown_index, ())

    def index(self, name: str) -> int:
        """The index of :meth:`service`, without building anything."""
        view = self._services.get(name)
        return view.index if view is not None else self._unknown_index

    def knows(self, name: str) -> bool:
        """Whether the service has a worker, or had one."""
        return name in self._services

    def names(self) -> list[str]:
        """The services that have workers now, sorted."""
        return sorted(name for name, view in self._services.items() if name != ALL_SERVICES and view.workers)

    def known_names(self) -> list[str]:
        """The services that have workers, or had one lately, sorted."""
        return sorted(name for name in self._services if name != ALL_SERVICES)

    def _workers_by_service(self, pool: PoolView) -> dict[str, list[Worker]]:
        known, self._workers = self._workers, {}
        # Services held stay in the list with no workers: their last one may just have gone.
        by_service: dict[str, list[Worker]] = {ALL_SERVICES: [], **{name: [] for name in self._services}}
        everyone = by_service[ALL_SERVICES]
        for member in pool.members:
            if not member.liveness.present or member.pending:
                continue
            before = known.get(member.instance)
            if before is not None and (before[0] is member or before[0] == member):
                worker = before[1]
            else:
                worker = worker_from_member(member, self.wall_offset)
            worker = with_load(worker, self._loads.get(member.instance), self.wall_offset)
            self._workers[member.instance] = (member, worker)
            everyone.append(worker)
            if member.service != ALL_SERVICES:
                by_service.setdefault(member.service, []).append(worker)
        return by_service

    def _update_service(self, name: str, workers: tuple[Worker, ...], newcomer: int) -> None:
        held = self._services.get(name)
        if held is None:
            self._services[name] = self._view(name, newcomer, workers)
            return
        policy = self._policies.get(name, _NO_POLICY)
        if workers == held.workers and self._connectivity is held.connectivity and policy == held.policy:
            return
        same = held.equal_ignoring_times(workers, policy, connectivity=self._connectivity)
        view = self._view(name, held.index + (not same), workers)
        view.set_routing(held._routing)
        view.scale_out = held.scale_out
        self._services[name] = view
        if name != ALL_SERVICES and not same and view.routing_digest != held.routing_digest:
            self.routing_changes += 1

    def _view(self, name: str, index: int, workers: tuple[Worker, ...]) -> ServiceView:
        return ServiceView(
            cluster=self.pool.cluster if self.pool is not None else "",
            service=name,
            index=index,
            process=self.process,
            connectivity=self._connectivity,
            workers=workers,
            policy=self._policies.get(name),
        )

    @property
    def _connectivity(self) -> Connectivity:
        return self.pool.connectivity if self.pool is not None else Connectivity.CONNECTED

    def _forget_empty(self) -> None:
        """Forget old empty services: members may invent names without end. A forgotten index must still never fall."""
        empty = [name for name, view in self._services.items() if name != ALL_SERVICES and not view.workers]
        for name in empty[: max(len(empty) - MAX_EMPTY_SERVICES, 0)]:
            self._unknown_index = max(self._unknown_index, self._services.pop(name).index)


def _figures(loads: Mapping[InstanceId, MemberLoad]) -> list[tuple[InstanceId, float, int]]:
    return [(instance, load.utilization, load.queue) for instance, load in loads.items()]
