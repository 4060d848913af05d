"""Where the keys of one service go, and the digest by which two computations of it are compared.

The traffic split chooses a key's release (traffic_split.py). That release's ring gives the order of its workers
(hash_ring.py). If a zone is preferred, its workers come first for as many keys as the zone should keep (zones.py). The
workers of the other releases follow, so the order holds every routable worker.

The digest covers exactly what decides: the routable workers and the policy. Liveness (a suspect is still in the ring),
utilization, tags and `since` are not in it, so a suspicion or a load figure never makes a caller think that keys moved.
docs/reference/ring.md gives the canonical bytes with test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from rumormill.ring.hash_ring import EmptyRing, HashRing, Key, thousandths
from rumormill.ring.incremental import run_to_completion
from rumormill.ring.traffic_split import Group, TrafficSplit, basis_points
from rumormill.ring.worker import RoutingPolicy, Worker
from rumormill.ring.zones import capacity_by_zone, zone_basis_points, zone_slot

_DIGEST_VERSION = "rumormill-routing/2"
"""It also names the rules of the ring: hash, points, ties, traffic split, zones. Changed rules need a new version."""

_encode = msgspec.json.Encoder().encode


def canonical_routing(service: str, workers: Iterable[Worker], policy: RoutingPolicy) -> bytes:
    """The bytes the routing digest is taken over: compact JSON in UTF-8, equal wherever routing is equal.

    ``["rumormill-routing/2", service, [[name, generation, instance, url, zone, release, thousandths], ...],
    [[release, basis points], ...], zone]``, the workers sorted by name (by code point), the shares in the policy's
    order. Weights are integer thousandths and shares integer basis points, because floats print differently from
    language to language.
    """
    rows = [
        (w.name, w.generation, w.instance, w.url, w.zone, w.release, thousandths(w.weight))
        for w in _routable(workers).values()
    ]
    shares = [(canary.release, basis_points(canary.share)) for canary in policy.canary]
    return _encode((_DIGEST_VERSION, service, rows, shares, policy.zone))


def routing_digest(service: str, workers: Iterable[Worker], policy: RoutingPolicy) -> str:
    """16 hexadecimal digits: the first 8 bytes of SHA-256 over :func:`canonical_routing`.

    `workers` may hold any; those that are not routable do not count.
    """
    return hashlib.sha256(canonical_routing(service, workers, policy)).hexdigest()[:16]


class Routing:
    """The owners of every key of one service, for one set of workers and one policy. Immutable.

    Suspects keep their place in the order. Callers try them last, and also apply load and slow start (admission.py).

    A `zone` is the caller's own. A caller that names none gets the policy's; "" asks for no preference.
    """

    __slots__ = ("_by_name", "_local_basis_points", "_rings", "_zones", "digest", "policy", "service", "traffic_split")

    def __init__(self, service: str, workers: Iterable[Worker], policy: RoutingPolicy | None = None) -> None:
        """`workers` may hold any; only the routable are in the ring."""
        self._set_inputs(service, _routable(workers), policy or RoutingPolicy())
        self.traffic_split = TrafficSplit(self.policy.canary)
        self._rings = run_to_completion(self._rings_from({}))

    def _set_inputs(self, service: str, by_name: dict[str, Worker], policy: RoutingPolicy) -> None:
        self.service = service
        self.policy = policy
        self._by_name = by_name
        self._local_basis_points: dict[tuple[str, Group], int] = {}
        self._zones = len({worker.zone for worker in by_name.values()})
        self.digest = routing_digest(service, by_name.values(), policy)

    def _weights(self) -> dict[Group, dict[str, float]]:
        """Name to weight of the workers of each group that has any."""
        groups: dict[Group, dict[str, float]] = {}
        for name, worker in self._by_name.items():
            groups.setdefault(self.traffic_split.group(worker.release), {})[name] = worker.weight
        return groups

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The routable workers, sorted by name."""
        return tuple(self._by_name.values())

    @property
    def rings(self) -> Mapping[Group, HashRing]:
        """The ring of each candidate release, and under None that of the rest; none where a group has no workers."""
        return MappingProxyType(self._rings)

    def worker(self, name: str) -> Worker:
        """A routable worker by name. Raises KeyError."""
        return self._by_name[name]

    def owners(self, key: Key, n: int | None = None, *, zone: str | None = None) -> list[Worker]:
        """The first `n` distinct owners of `key` in order of preference; all of them without `n`; none if none are."""
        by_name = self._by_name
        if n is not None and not (self.policy.zone if zone is None else zone):
            names: list[str] = []
            for group in self.groups(key):
                names += self._rings[group].owners(key, n - len(names))
                if len(names) >= n:
                    break
            return [by_name[name] for name in names]
        walk = self.walk(key, zone=zone)
        return list(walk) if n is None else [worker for worker, _ in zip(walk, range(n), strict=False)]

    def first_owner(self, key: Key, *, zone: str | None = None) -> Worker | None:
        """The first of :meth:`walk`, at a fraction of its cost if no zone is preferred. None if nobody is routable."""
        if self.policy.zone if zone is None else zone:
            return next(self.walk(key, zone=zone), None)
        for group in self.groups(key):
            return self._by_name[self._rings[group].owner(key)]
        return None

    def walk(self, key: Key, *, zone: str | None = None) -> Iterator[Worker]:
        """Every routable worker once, in order of preference for `key`, found as it is asked for."""
        by_name = self._by_name
        preferred = self.policy.zone if zone is None else zone
        for group in self.groups(key):
            workers = (by_name[name] for name in self._rings[group].walk(key))
            if preferred:
                yield from _prefer_zone(
                    workers, preferred, stays=zone_slot(key) < self.local_basis_points(preferred, group)
                )
            else:
                yield from workers

    def owners_many(self, keys: Iterable[Key]) -> list[Worker]:
        """The first owner of each key. Raises :class:`rumormill.ring.EmptyRing` where no worker is routable."""
        by_name, rings = self._by_name, self._rings
        if not rings:
            raise EmptyRing
        if self.policy.zone:
            return [next(self.walk(key)) for key in keys]
        if len(rings) == 1:
            (ring,) = rings.values()
            return [by_name[name] for name in ring.owners_many(keys)]
        choose = self.traffic_split.choose
        return [by_name[rings[choose(key, rings)].owner(key)] for key in keys]

    def groups(self, key: Key) -> Iterator[Group]:
        """The releases for a key, in order of preference, of those with routable workers; None is the rest."""
        return self.traffic_split.order(key, self._rings) if len(self._rings) > 1 else iter(self._rings)

    def local_basis_points(self, zone: str, group: Group) -> int:
        """Of 10 000 keys of a caller in `zone` that are for `group`, how many stay in the zone."""
        local = self._local_basis_points.get((zone, group))
        if local is None:
            held = (self._by_name[name] for name in self._rings[group].weights)
            here = capacity_by_zone((worker.zone, thousandths(worker.weight)) for worker in held)
            local = self._local_basis_points[zone, group] = zone_basis_points(zone, here, self._zones)
        return local

    def updated(self, workers: Iterable[Worker], policy: RoutingPolicy | None = None) -> Routing:
        """The same as a new Routing of `workers`, made from this one's rings where few of them have changed."""
        return run_to_completion(self.updated_incrementally(workers, policy))

    def updated_incrementally(
        self, workers: Iterable[Worker], policy: RoutingPolicy | None = None
    ) -> Generator[None, None, Routing]:
        """The same, returned by a generator that makes it in pieces of a few milliseconds (incremental.py)."""
        routing = Routing.__new__(Routing)
        routing._set_inputs(self.service, _routable(workers), policy or RoutingPolicy())
        same = list(self.traffic_split.canary) == routing.policy.canary
        routing.traffic_split = self.traffic_split if same else TrafficSplit(routing.policy.canary)
        routing._rings = yield from routing._rings_from(self._rings)
        return routing

    def _rings_from(self, former: Mapping[Group, HashRing]) -> Generator[None, None, dict[Group, HashRing]]:
        rings = {}
        for group, weights in self._weights().items():
            yield
            held = former.get(group)
            rings[group] = (
                yield from held.with_weights_incrementally(weights) if held else HashRing.build_incrementally(weights)
            )
        return rings


def _prefer_zone(workers: Iterator[Worker], zone: str, *, stays: bool) -> Iterator[Worker]:
    """Those of the zone first and then the others, or the other way about where the key does not stay."""
    later = []
    for worker in workers:
        if (worker.zone == zone) == stays:
            yield worker
        else:
            later.append(worker)
    yield from later


def _routable(workers: Iterable[Worker]) -> dict[str, Worker]:
    """By name, in name order. Of two instances of one name, which no sidecar should ever offer, the later one
    counts."""
    routable = sorted((w for w in workers if w.routable), key=lambda w: (w.name, w.generation, w.instance))
    return {worker.name: worker for worker in routable}
