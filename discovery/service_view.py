"""One service at one index, and the answers that are made of it. Pure. The rules stand in view.py."""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import msgspec

from rumormill.discovery.headroom import headroom
from rumormill.discovery.http.response import JSON, PreparedResponse, prepare
from rumormill.discovery.schema.answers import PoolAnswer
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.discovery.workers import unroutable_reason
from rumormill.membership.view import Connectivity
from rumormill.ring.incremental import run_to_completion
from rumormill.ring.routing import Routing, routing_digest
from rumormill.ring.worker import RoutingPolicy, Worker

ALL_SERVICES: Final = ""
"""The name under which all workers together are answered."""
MAX_UNROUTABLE_REASONS: Final = 32
"""Most unroutable workers that a lookup gives a reason for."""

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
    """The fields that move the index: all but the load, since, and the end time of a probation."""
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
        "scale_out",
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
        self.scale_out: bool | None = None
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

    def set_scale_out(self, wanted: bool | None) -> None:
        """Say in the pool answer whether more workers are wanted."""
        self.scale_out = wanted
        self._encoded.pop(Representation.POOL, None)

    def owners(self, routing: Routing, key: str, count: int) -> list[Worker]:
        """The owners of a key in ring order, suspects last (the ring may be older than a suspicion).

        A former ring may name workers that are not routable any more. They are left out, which changes nobody else's
        order.
        """
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
        """Whether these would give an answer that differs in nothing but `since` and the load."""
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
        # The index moves exactly when anything but `since` and the load does, so with the process it names
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
        room = headroom(self.workers)
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
            mean_utilization=room.mean and round(room.mean, 3),
            scale_out=self.scale_out,
            failures_to_spare=max(len(routable) - suspect - 1, 0),
            worst_utilization=room.worst,
            known_utilizations=room.known,
            may_fail=room.may_fail,
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
