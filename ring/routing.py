"""Where the keys of one service go, and the digest by which two computations of it are compared.

The digest covers exactly what decides: the routable workers and the policy. Liveness (a suspect is still in the ring),
utilization, tags and `since` are not in it, so a suspicion or a load figure never makes a caller think that keys moved.
docs/ring.md gives the canonical bytes with test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from rumormill.ring.hashring import HashRing, Key
from rumormill.ring.worker import Policy, Worker

_FORMAT = "rumormill-routing/1"
"""Names the ring's rules too (hash, points a member, order of ties): other rules need another word here."""
_REBUILD_BEYOND = 16
"""Where more than one worker in this many changed, a new ring is quicker than one change after another."""

_encode = msgspec.json.Encoder().encode


def canonical_routing(service: str, workers: Iterable[Worker], policy: Policy) -> bytes:
    """The bytes the routing digest is taken over: compact JSON in UTF-8, equal wherever routing is equal.

    ``["rumormill-routing/1", service, [[name, generation, instance, url, zone, release, thousandths], ...],
    [[release, basis points], ...], zone]``, the lists sorted by name and by release (by code point). Weights are
    integer thousandths and shares integer basis points, because floats print differently from language to language.
    """
    rows = [
        (w.name, w.generation, w.instance, w.url, w.zone, w.release, round(w.weight * 1000))
        for w in _routable(workers).values()
    ]
    shares = sorted((canary.release, round(canary.share * 10_000)) for canary in policy.canary)
    return _encode((_FORMAT, service, rows, shares, policy.zone))


def routing_digest(service: str, workers: Iterable[Worker], policy: Policy) -> str:
    """16 hexadecimal digits: the first 8 bytes of SHA-256 over :func:`canonical_routing`.

    `workers` may hold any; those that are not routable do not count.
    """
    return hashlib.sha256(canonical_routing(service, workers, policy)).hexdigest()[:16]


class Routing:
    """The owners of every key of one service, for one set of workers and one policy. Immutable.

    Suspects stand where the ring puts them: trying them last is the caller's step.
    """

    __slots__ = ("_by_name", "_ring", "digest", "policy", "service")

    def __init__(self, service: str, workers: Iterable[Worker], policy: Policy | None = None) -> None:
        """`workers` may hold any; only the routable are in the ring."""
        self._take(service, _routable(workers), policy or Policy())
        self._ring = HashRing(_weights(self._by_name))

    def _take(self, service: str, by_name: dict[str, Worker], policy: Policy) -> None:
        self.service = service
        self.policy = policy
        self._by_name = by_name
        self.digest = routing_digest(service, by_name.values(), policy)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The routable workers, sorted by name."""
        return tuple(self._by_name.values())

    def owners(self, key: Key, n: int | None = None) -> list[Worker]:
        """The first `n` distinct owners of `key` in order of preference; all of them without `n`; none if none are."""
        by_name = self._by_name
        if n is None:
            return list(self.walk(key))
        return [by_name[name] for name in self._ring.owners(key, n)]

    def walk(self, key: Key) -> Iterator[Worker]:
        """Every routable worker once, in order of preference for `key`, found as it is asked for."""
        by_name = self._by_name
        return (by_name[name] for name in self._ring.walk(key))

    def owners_many(self, keys: Iterable[Key]) -> list[Worker]:
        """The first owner of each key. Raises :class:`rumormill.ring.EmptyRing` where no worker is routable."""
        by_name = self._by_name
        return [by_name[name] for name in self._ring.owners_many(keys)]

    def evolve(self, workers: Iterable[Worker], policy: Policy | None = None) -> Routing:
        """The same as a new Routing of `workers`, made from this one's ring where few of them have changed."""
        routing = Routing.__new__(Routing)
        routing._take(self.service, _routable(workers), policy or Policy())
        routing._ring = _evolve_ring(self._ring, _weights(routing._by_name))
        return routing


def _routable(workers: Iterable[Worker]) -> dict[str, Worker]:
    """By name, in name order. Of two lives of one name, which no sidecar should ever offer, the later one counts."""
    routable = sorted((w for w in workers if w.routable), key=lambda w: (w.name, w.generation, w.instance))
    return {worker.name: worker for worker in routable}


def _weights(by_name: dict[str, Worker]) -> dict[str, float]:
    return {name: worker.weight for name, worker in by_name.items()}


def _evolve_ring(ring: HashRing, weights: dict[str, float]) -> HashRing:
    held = ring.weights
    gone = [name for name in held if name not in weights]
    changed = [name for name, weight in weights.items() if held.get(name) != weight]
    if len(gone) + len(changed) > len(held) // _REBUILD_BEYOND + 1:
        return HashRing(weights)
    for name in gone:
        ring = ring.without_member(name)
    for name in changed:
        ring = ring.with_member(name, weights[name])
    return ring
