"""The rings that bench.ring compares, behind one interface. An operation that a ring lacks is None."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mmh3

from rumormill.ring import HashRing

Lookup = Callable[[str], object]


@dataclass(frozen=True)
class RingPeer:
    """One ring of equal members."""

    name: str
    one: Lookup
    three: Lookup | None = None
    many: Callable[[list[str]], object] | None = None


def rumormill(names: list[str], *, index: bool) -> RingPeer:
    ring = HashRing(dict.fromkeys(names, 1.0))
    if index:
        # Filled with other keys than those of the bench, enough to hit nearly every interval.
        for many in range(0, 4_000 * len(names), 40_000):
            ring.owners_many([f"another key {number}" for number in range(many, many + 40_000)])
        return RingPeer("rumormill+index", ring.owner, lambda key: ring.owners(key, 3), ring.owners_many)
    # Otherwise it builds an index after a few lookups.
    ring._lookups_until_index = sys.maxsize
    return RingPeer("rumormill", ring.owner, lambda key: ring.owners(key, 3), ring.owners_many)


def uhashring(names: list[str]) -> RingPeer:
    from uhashring import HashRing as Ring

    ring = Ring(names)
    return RingPeer("uhashring", ring.get_node, lambda key: list(ring.range(key, 3, unique=True)))


def hashring(names: list[str]) -> RingPeer:
    from hashring import HashRing as Ring

    ring = Ring(names)

    def three(key: str) -> list[object]:
        nodes = ring.iterate_nodes(key, distinct=True)
        return [node for _, node in zip(range(3), nodes, strict=False)]

    return RingPeer("hashring", ring.get_node, three)


def jump(names: list[str]) -> RingPeer:
    """Jump consistent hash maps to numbers: members can only be added or removed at the end."""
    from jump import hash as jump_hash

    hash_of, count = mmh3.hash, len(names)
    return RingPeer("jump", lambda key: names[jump_hash(hash_of(key, 0, False), count)])


def fastring(names: list[str]) -> RingPeer | None:
    """Written in Rust, for Python 3.13 and later."""
    try:
        from fastring import HashRing as Ring
    except ImportError:
        return None
    ring = Ring()
    for name in names:
        ring.add_node(name)
    return RingPeer("fastring", ring.get_node, lambda key: ring.get_replicas(key, 3), ring.get_node_batch)


def peers(names: list[str]) -> Iterable[RingPeer]:
    """All installed rings with these members, each with its default number of points."""
    made = [
        rumormill(names, index=False),
        rumormill(names, index=True),
        uhashring(names),
        hashring(names),
        jump(names),
        fastring(names),
    ]
    return [peer for peer in made if peer is not None]
