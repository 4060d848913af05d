"""Turns a pool view into what callers see. Pure: no socket, no clock, nothing random.

One :class:`RoutingView` belongs to one run of a sidecar and outlives every :class:`PoolView` it is fed. For each
service it holds a :class:`ServiceView`, replaced whenever something a caller can see has changed, and with it the
service's index. The rules:

- The index counts this process's changes of the service's answer, from 1. Another process's index means nothing.
- Every field of an answer moves the index, suspicion and isolation included. The exceptions are `since` and
  `utilization`. Heartbeats, refutations and load are in no answer, so they move nothing.
- The routing digest says where keys go. Suspicion, load and the filter of a request never move it.
- An answer is encoded once per change, at the first request for it, and all callers share it.
- A service without workers has an answer and an index too, so a caller can wait for its first worker.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import msgspec

from rumormill.discovery.http.response import JSON, PreparedResponse, prepare
from rumormill.discovery.schema.answers import PoolAnswer
from rumormill.discovery.schema.policies import routing_policies
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.discovery.workers import unroutable_reason, worker_from_member
from rumormill.membership.view import Connectivity, Member, PoolView
from rumormill.ring.incremental import run_to_completion
from rumormill.ring.routing import Routing, routing_digest
from rumormill.ring.worker import RoutingPolicy, Worker

ALL_SERVICES: Final = ""
"""The name under which all workers together are answered."""
MAX_UNROUTABLE_REASONS: Final = 32
"""Most unroutable workers that a lookup gives a reason for."""
MAX_EMPTY_SERVICES: Final = 1024
"""Most services whose index is kept after their last worker has gone."""

_NO_POLICY: Final = RoutingPolicy()
A = ParamSpec("A")
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class Representation(enum.Enum):
    """The shapes in which one service is answered."""

    WORKERS = "workers"
    READY = "ready"
    POOL = "pool"
    SNAPSHOT = "snapshot"
    CHANGE = "change"


def _indexed_fields(worker: Worker) -> tuple[object, ...]:
    """The fields that move the index: all but utilization, since, and the end time of a probation."""
    return (
        worker.name,
        worker.generation,
        worker.instance,
        worker.service,
        worker.url,
        worker.zone,
        worker.release,
        worker.weight,
        worker.liveness,
        worker.readiness,
        worker.tags,
        worker.address,
        bool(worker.probation_until),
    )


def connectivity_headers(connectivity: Connectivity) -> tuple[tuple[str, str], ...]:
    """The headers by which a sidecar that is cut off says so."""
    if connectivity is Connectivity.CONNECTED:
        return ()
    return (("X-Rumormill-Connectivity", connectivity.value),)


class ServiceView:
    """One service at one index. Immutable, apart from its cache of encoded answers."""

    __slots__ = (
        "_by_name",
        "_derived",
        "_encoded",
        "_routing",
        "_routing_digest",
        "_suspects",
        "_unroutable",
        "cluster",
        "connectivity",
        "index",
        "policy",
        "process",
        "service",
        "workers",
    )

    def __init__(
        self,
        *,
        cluster: str,
        service: str,
        index: int,
        process: str,
        connectivity: Connectivity,
        workers: tuple[Worker, ...],
        policy: RoutingPolicy | None = None,
    ) -> None:
        self.cluster = cluster
        self.service = service
        self.index = index
        self.process = process
        self.connectivity = connectivity
        self.policy = policy or RoutingPolicy()
        self.workers = workers
        self._routing_digest: str | None = None
        self._routing: Routing | None = None
        self._encoded: dict[Representation, PreparedResponse] = {}
        self._derived: dict[tuple[object, ...], object] = {}
        self._by_name: dict[str, Worker] = {}
        self._unroutable: dict[str, str] | None = None
        self._suspects = 0

    @property
    def isolated(self) -> bool:
        return self.connectivity is not Connectivity.CONNECTED

    @property
    def routing_digest(self) -> str:
        """The digest over all routable workers, whatever the filter of a request."""
        if self._routing_digest is None:
            self._routing_digest = routing_digest(self.service, self.workers, self.policy)
        return self._routing_digest

    @property
    def routing(self) -> Routing | None:
        """The ring, where one has been built for this digest before; else build one and :meth:`adopt` it."""
        return self._routing if self._routing is not None and self._routing.digest == self.routing_digest else None

    def build_routing(self) -> Routing:
        """A ring for this service, from the former one where there is one. Changes nothing."""
        return run_to_completion(self.build_routing_incrementally())

    def build_routing_incrementally(self) -> Generator[None, None, Routing]:
        """The same in steps of a few milliseconds, between which other tasks can run."""
        former = self._routing or Routing(self.service, ())
        return former.updated_incrementally(self.workers, self.policy)

    @property
    def latest_routing(self) -> Routing | None:
        """The latest ring, whatever has changed since it was built."""
        return self._routing

    def set_routing(self, routing: Routing | None) -> None:
        """Keep a ring: this view's own, or an older one to make it from."""
        self._routing = routing

    def owners(self, routing: Routing, key: str, count: int) -> list[Worker]:
        """The owners of a key as they stand now (the ring may be older than a suspicion), in ring order, those that are
        heard before the suspects. Of a former ring those that are still routable: whoever has gone leaves everybody
        else's order as it was."""
        if not self._by_name:
            self._by_name = {worker.name: worker for worker in self.workers if worker.routable}
            self._suspects = sum(worker.liveness == "suspect" for worker in self._by_name.values())
        if routing.digest == self.routing_digest and not self._suspects:
            return [self._by_name[worker.name] for worker in routing.owners(key, count)]
        present = (self._by_name[worker.name] for worker in routing.walk(key) if worker.name in self._by_name)
        return list(islice(_suspects_last(present), count))

    @property
    def unroutable(self) -> dict[str, str]:
        """Present workers that take no new work, by name, each with the reason. Only the first if there are many."""
        if self._unroutable is None:
            waiting = (worker for worker in self.workers if not worker.routable)
            self._unroutable = {
                worker.name: unroutable_reason(worker) for worker in islice(waiting, MAX_UNROUTABLE_REASONS)
            }
        return self._unroutable

    def equal_ignoring_times(
        self, workers: tuple[Worker, ...], policy: RoutingPolicy, *, connectivity: Connectivity
    ) -> bool:
        """Whether these would give an answer that differs in nothing but `since` and `utilization`."""
        if connectivity is not self.connectivity or policy != self.policy or len(workers) != len(self.workers):
            return False
        pairs = zip(self.workers, workers, strict=True)
        return all(before is after or _indexed_fields(before) == _indexed_fields(after) for before, after in pairs)

    def response(self, representation: Representation) -> PreparedResponse:
        """The encoded answer in one shape; encoded at the first asking."""
        prepared = self._encoded.get(representation)
        if prepared is None:
            prepared = self._encoded[representation] = self._prepare(representation)
        return prepared

    def derived(self, make: Callable[Concatenate[ServiceView, A], T], *args: A.args, **named: A.kwargs) -> T:
        """What a pure function makes of this view; made at the first asking.

        The arguments must be hashable and of few values: each combination is kept as long as the view is."""
        key: tuple[Any, ...] = (make, *args, *named.items())
        if key not in self._derived:
            self._derived[key] = make(self, *args, **named)
        return cast("T", self._derived[key])

    def _prepare(self, representation: Representation) -> PreparedResponse:
        match representation:
            case Representation.WORKERS:
                return self.prepare(_encode(self.workers_answer(self.workers)), "")
            case Representation.READY:
                ready = tuple(worker for worker in self.workers if worker.routable)
                return self.prepare(_encode(self.workers_answer(ready)), "r")
            case Representation.POOL:
                return self.prepare(_encode(self.pool_answer()), "p")
            case Representation.SNAPSHOT | Representation.CHANGE:
                # JSON holds no bare line feed, so one data line carries it whole.
                event = f"event: {representation.value}\nid: {self.index}\ndata: ".encode()
                return prepare(event + self.response(Representation.WORKERS).body + b"\n\n", media="text/event-stream")

    def prepare(
        self, body: bytes, suffix: str, *, media: str = JSON, headers: tuple[tuple[str, str], ...] = ()
    ) -> PreparedResponse:
        """An answer made of this view, with its index and tag. `suffix` tells one shape of the answer from another."""
        # The index moves exactly when anything but `since` and `utilization` does, so with the process it names
        # precisely what the tag has to cover.
        shared = (
            ("X-Rumormill-Index", str(self.index)),
            ("X-Rumormill-Process", self.process),
            *connectivity_headers(self.connectivity),
        )
        tag = f'W/"{self.process}-{self.index}{suffix}"'
        return prepare(body, media=media, etag=tag, headers=(*shared, *headers))

    def workers_answer(self, workers: Iterable[Worker]) -> WorkersAnswer:
        return WorkersAnswer(
            cluster=self.cluster,
            service=self.service,
            index=self.index,
            process=self.process,
            routing_digest=self.routing_digest,
            isolated=self.isolated,
            policy=self.policy,
            workers=list(workers),
        )

    def pool_answer(self) -> PoolAnswer:
        routable = [worker for worker in self.workers if worker.routable]
        suspect = sum(worker.liveness == "suspect" for worker in routable)
        return PoolAnswer(
            cluster=self.cluster,
            service=self.service,
            index=self.index,
            process=self.process,
            isolated=self.isolated,
            workers=len(self.workers),
            routable=len(routable),
            suspect=suspect,
            capacity=round(sum(worker.weight for worker in routable), 3),
            mean_utilization=None,
            scale_out=None,
            failures_to_spare=max(len(routable) - suspect - 1, 0),
        )


def _suspects_last(workers: Iterable[Worker]) -> Iterator[Worker]:
    """The same workers in their order, but suspects behind the others."""
    suspects = []
    for worker in workers:
        if worker.liveness == "suspect":
            suspects.append(worker)
        else:
            yield worker
    yield from suspects


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
        self._services: dict[str, ServiceView] = {}
        self._unknown_index = 1
        """The index of every service not held."""
        self._workers: dict[bytes, tuple[Member, Worker]] = {}
        self._policies: dict[str, RoutingPolicy] = {}

    def update(self, pool: PoolView) -> None:
        """Take in what the node now holds. Replaces the views of services that changed, and no others."""
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
