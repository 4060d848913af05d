"""The rings that bench.ring compares, each behind the same few verbs. A verb a ring lacks is None."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mmh3

from rumormill.ring import HashRing

Lookup = Callable[[str], object]


@dataclass(frozen=True)
class RingPeer:
    """One ring, built of equal members."""

    name: str
    one: Lookup
    three: Lookup | None = None
    many: Callable[[list[str]], object] | None = None


def rumormill(names: list[str], *, index: bool) -> RingPeer:
    ring = HashRing(dict.fromkeys(names, 1.0))
    if index:
        # Filled by other keys than those of the bench, as many as it takes to meet nearly every stretch.
        for many in range(0, 4_000 * len(names), 40_000):
            ring.owners_many([f"another key {number}" for number in range(many, many + 40_000)])
        return RingPeer("rumormill+index", ring.owner, lambda key: ring.owners(key, 3), ring.owners_many)
    # It would build itself one after a few lookups.
    ring._asked = sys.maxsize
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
    """Jump consistent hash knows numbers, not names: members can only come and go at the end."""
    from jump import hash as jump_hash

    hash_of, count = mmh3.hash, len(names)
    return RingPeer("jump", lambda key: names[jump_hash(hash_of(key, 0, False), count)])


def fastring(names: list[str]) -> RingPeer | None:
    """In Rust, for Python 3.13 and later."""
    try:
        from fastring import HashRing as Ring
    except ImportError:
        return None
    ring = Ring()
    for name in names:
        ring.add_node(name)
    return RingPeer("fastring", ring.get_node, lambda key: ring.get_replicas(key, 3), ring.get_node_batch)


def peers(names: list[str]) -> Iterable[RingPeer]:
    """All that can be had here, of these members, each with its own default of points."""
    made = [
        rumormill(names, index=False),
        rumormill(names, index=True),
        uhashring(names),
        hashring(names),
        jump(names),
        fastring(names),
    ]
    return [peer for peer in made if peer is not None]
