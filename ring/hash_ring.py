"""A weighted consistent-hash ring: one sorted list of packed points, searched by bisection.

The rules, exact enough to be written again in another language (docs/reference/ring.md has them with test vectors):

- The ring is the 32-bit numbers in a circle. A member of weight ``w`` holds the points ``mmh3(name + "#" + j)`` for
  ``0 <= j < round(w * points)``, and at least one: a prefix of one endless sequence, so a change of weight adds or
  removes points at the end of it and moves nobody else's keys.
- A key belongs to the holder of the first point at or after ``mmh3(key)``, going around. Its further owners are the
  other members in the order in which their first points follow.
- Where two members share a point, the one whose name sorts first (by code point) comes first.

Each point is packed into one number, its position above and a small number for its member (the slot) below. They are
doubles, which hold 48 bits exactly: ``array("d")`` keeps one in 8 bytes instead of a list's 40, and Python sorts and
compares doubles two to three times as fast as integers of two digits. A slot says nothing about order: ties between
members are settled by name when points are placed, so the ring does not depend on the order members came in.

A member comes or goes by copying the slices between its points (splice.py), in a millisecond or two among 1000. A ring
that is asked often has an index (bucket_index.py).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Final

import mmh3

from rumormill.ring.bucket_index import FIRST_SLOT, empty_index, fill
from rumormill.ring.incremental import run_to_completion, sort_points
from rumormill.ring.splice import Edit, apply_edits, insertion, removals

DEFAULT_POINTS: Final = 400
"""Points of a member of weight 1. More even out the load (the busiest of 100 equal members has about 1.13 times its
share, 1.17 with 256, 1.25 with 128) and cost as much more memory and building time. Every sidecar and client of a pool
must use the same number; it is part of the routing digest's version."""
MAX_MEMBERS: Final = 0xFFFF + 1 - FIRST_SLOT

_SCALE: Final = 65536.0
"""A packed point is its position times this, plus the slot."""
_CIRCLE: Final = 2**32
_LIST_SCAN_MAX: Final = 16
"""Up to this many distinct owners, scanning a list is faster than a set."""
_POINTS_PER_LOOKUP: Final = 16
"""A ring builds its index after one lookup for each of this many points."""
_REBUILD_BEYOND: Final = 8
"""If more than one point in this many changes, building a new ring is faster than splicing."""

Key = str | bytes
"""A string is hashed as its UTF-8 bytes."""

_hash = mmh3.hash
_hash_bytes = mmh3.mmh3_32_uintdigest
_decimal_suffixes: list[bytes] = []
"""b"0", b"1", ...: as far as any member has needed them."""


class EmptyRing(LookupError):
    """A ring without members owns nothing."""

    def __init__(self) -> None:
        super().__init__("the ring has no members, so no key has an owner")


class HashRing:
    """An immutable ring of weighted members. Equal weights give equal owners, however the ring came to be."""

    _lookups_until_index: int
    """Lookups until there is an index."""
    _index: array[int] | None
    __slots__ = (
        "_free_slots",
        "_index",
        "_lookups_until_index",
        "_names",
        "_per_weight",
        "_point_slots",
        "_points",
        "_shift",
        "_slots",
        "_weights",
    )

    def __init__(self, weights: Mapping[str, float], *, points: int = DEFAULT_POINTS) -> None:
        """`weights` maps names to relative weights, 1.0 being normal, three decimals; `points` are those of weight 1.

        Raises ValueError for a weight that is not a number above zero, and for more than 65 534 members.
        """
        run_to_completion(self._build(weights, points))

    @classmethod
    def build_incrementally(
        cls, weights: Mapping[str, float], *, points: int = DEFAULT_POINTS
    ) -> Generator[None, None, HashRing]:
        """The same ring, returned by a generator that makes it in pieces of a few milliseconds (incremental.py)."""
        ring = cls.__new__(cls)
        yield from ring._build(weights, points)
        return ring

    def _build(self, weights: Mapping[str, float], points: int) -> Generator[None, None, None]:
        if points < 1:
            raise ValueError(f"a ring needs at least one point a member, not {points}")
        if len(weights) > MAX_MEMBERS:
            raise ValueError(f"a ring holds at most {MAX_MEMBERS} members, not {len(weights)}")
        self._per_weight = points
        self._weights = {name: weights[name] for name in sorted(weights)}
        self._names = [*[""] * FIRST_SLOT, *self._weights]
        self._slots = {name: slot for slot, name in enumerate(self._weights, start=FIRST_SLOT)}
        self._free_slots: list[int] = []
        # Slots are in name order here, so sorting the packed points also settles ties by name.
        members = (self._pack_points(name, slot, self._weights[name]) for name, slot in self._slots.items())
        total = sum(_point_count(name, weight, points) for name, weight in self._weights.items())
        self._set_points(*(yield from sort_points(members, total, _CIRCLE * _SCALE)))

    @property
    def weights(self) -> Mapping[str, float]:
        """Name to weight, as given."""
        return MappingProxyType(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def owner(self, key: Key) -> str:
        """The member that owns `key`. Raises :class:`EmptyRing`."""
        position = _hash(key, 0, False)
        if self._index is not None:
            return self._names[self._index[position >> self._shift]] or self._look_up(position)
        self._lookups_until_index -= 1
        if not self._lookups_until_index:
            self.build_index()
        try:
            return self._names[self._point_slots[bisect_left(self._points, position * _SCALE)]]
        except IndexError:
            raise EmptyRing from None

    def owners(self, key: Key, n: int) -> list[str]:
        """The first `n` distinct owners of `key`, in order of preference; fewer where there are fewer members."""
        if n > _LIST_SCAN_MAX:
            return list(islice(self.walk(key), n))
        point_slots, names = self._point_slots, self._names
        at = bisect_left(self._points, _hash(key, 0, False) * _SCALE)
        found: list[str] = []
        try:
            while len(found) < n:
                name = names[point_slots[at]]
                if name not in found:
                    found.append(name)
                at += 1
        except IndexError:  # past the end of the circle, or more asked for than there are
            return list(islice(self.walk(key), n))
        return found

    def owners_many(self, keys: Iterable[Key]) -> list[str]:
        """The owner of each key, in the keys' order; quicker than asking one by one. Raises :class:`EmptyRing`."""
        keys = keys if isinstance(keys, (list, tuple)) else list(keys)
        if not self._weights:
            raise EmptyRing
        names, digest = self._names, _hash
        if self._index is None and len(keys) < self._lookups_until_index:
            self._lookups_until_index -= len(keys)
            points, point_slots, find = self._points, self._point_slots, bisect_left
            return [names[point_slots[find(points, digest(key, 0, False) * _SCALE)]] for key in keys]
        index, shift, look_up = self.build_index(), self._shift, self._look_up
        return [names[index[(at := digest(key, 0, False)) >> shift]] or look_up(at) for key in keys]

    def walk(self, key: Key) -> Iterator[str]:
        """Every member once, in order of preference for `key`, found as it is asked for."""
        names, point_slots = self._names, self._point_slots
        return (names[point_slots[at]] for at in self._first_meetings(key))

    def trace(self, key: Key) -> Iterator[tuple[int, str]]:
        """The walk, each member with the position of the point at which it is met."""
        return ((_position(self._points[at]), self._names[self._point_slots[at]]) for at in self._first_meetings(key))

    def _first_meetings(self, key: Key) -> Iterator[int]:
        """The index of each member's first point on the way around the circle from `key`."""
        point_slots = self._point_slots
        start = bisect_left(self._points, _hash(key, 0, False) * _SCALE)
        seen = bytearray(len(self._names))
        left = len(self._weights)
        for stretch in (range(start, len(point_slots) - 1), range(start)):
            for at in stretch:
                slot = point_slots[at]
                if not seen[slot]:
                    seen[slot] = 1
                    yield at
                    left -= 1
                    if not left:
                        return

    def points(self) -> Iterator[tuple[int, str]]:
        """Every point around the circle: its position, below 2**32, and its member."""
        return (
            (_position(point), self._names[slot])
            for point, slot in zip(self._points[:-1], self._point_slots, strict=False)
        )

    def shares(self) -> dict[str, float]:
        """The part of the circle, and so of all keys, that each member owns."""
        arcs = dict.fromkeys(self._weights, 0)
        before = _position(self._points[-2]) - _CIRCLE if self._points else 0
        for position, name in self.points():
            arcs[name] += position - before
            before = position
        return {name: arc / _CIRCLE for name, arc in arcs.items()}

    def build_index(self) -> array[int]:
        """Build the index now. A ring with many lookups builds it by itself (bucket_index.py)."""
        if self._index is None:
            index, self._shift = empty_index(len(self._points), len(self._names) - FIRST_SLOT)
            self._index = index
        return self._index

    def _look_up(self, position: int) -> str:
        """The owner of a position that the index does not hold. Adds it to the index if possible."""
        try:
            slot = self._point_slots[bisect_left(self._points, position * _SCALE)]
        except IndexError:
            raise EmptyRing from None
        index = self.build_index()
        if not index[position >> self._shift]:
            fill(index, self._shift, self._points, slot, position)
        return self._names[slot]

    def with_member(self, name: str, weight: float = 1.0) -> HashRing:
        """A ring in which `name` has `weight`: a new member, or the same one lighter or heavier."""
        return self._with_edits({name: weight}, ())

    def with_weight(self, name: str, weight: float) -> HashRing:
        """A ring in which a member is lighter or heavier; only that share of the keys moves. Raises KeyError."""
        if name not in self._weights:
            raise KeyError(name)
        return self._with_edits({name: weight}, ())

    def without_member(self, name: str) -> HashRing:
        """A ring without `name`; only that member's keys have another owner in it. Raises KeyError if it is not in."""
        if name not in self._weights:
            raise KeyError(name)
        return self._with_edits({}, (name,))

    def with_weights(self, weights: Mapping[str, float]) -> HashRing:
        """The ring of these weights, made from this one where little has changed, and this one where nothing has."""
        return run_to_completion(self.with_weights_incrementally(weights))

    def with_weights_incrementally(self, weights: Mapping[str, float]) -> Generator[None, None, HashRing]:
        """The same in pieces; what can be made from this ring is one piece, of 5 ms where there are 1000 members."""
        gone = [name for name in self._weights if name not in weights]
        changed = {name: weight for name, weight in weights.items() if self._weights.get(name) != weight}
        if not gone and not changed:
            return self
        touched = sum(map(self._weights.__getitem__, gone)) + sum(changed.values())
        if touched * self._per_weight * _REBUILD_BEYOND > len(self._points):
            return (yield from HashRing.build_incrementally(weights, points=self._per_weight))
        return self._with_edits(changed, gone)

    def _with_edits(self, changed: Mapping[str, float], gone: Iterable[str]) -> HashRing:
        ring = HashRing.__new__(HashRing)
        ring._per_weight = self._per_weight
        ring._weights, ring._slots = dict(self._weights), dict(self._slots)
        ring._names, ring._free_slots = list(self._names), list(self._free_slots)
        points, point_slots, names = self._points, self._point_slots, self._names
        edits: list[Edit] = []
        for name in gone:
            held = self._pack_points(name, self._slots[name], ring._weights.pop(name))
            for packed in set(held):
                edits += removals(points, packed)
            ring._free_slots.append(ring._slots.pop(name))
        for name, weight in changed.items():
            slot = ring._slot_for(name)
            before = set(self._pack_points(name, slot, self._weights[name])) if name in self._weights else set()
            after = set(self._pack_points(name, slot, weight))
            ring._weights[name] = weight
            for packed in before - after:
                edits += removals(points, packed)
            edits += [insertion(points, point_slots, names, packed, name) for packed in after - before]
        ring._set_points(*apply_edits(points, point_slots, edits))
        return ring

    def _slot_for(self, name: str) -> int:
        """The member's slot, or one for a new member."""
        slot = self._slots.get(name)
        if slot is not None:
            return slot
        if self._free_slots:
            slot = self._free_slots.pop()
            self._names[slot] = name
        else:
            slot = len(self._names)
            if slot > MAX_MEMBERS + FIRST_SLOT - 1:
                raise ValueError(f"a ring holds at most {MAX_MEMBERS} members")
            self._names.append(name)
        self._slots[name] = slot
        return slot

    def _pack_points(self, name: str, slot: int, weight: float) -> list[float]:
        """The member's points. A hash that comes up twice may stand in the ring twice; that decides nothing."""
        count = _point_count(name, weight, self._per_weight)
        while len(_decimal_suffixes) < count:
            _decimal_suffixes.append(b"%d" % len(_decimal_suffixes))
        prefix = name.encode() + b"#"
        return [_hash_bytes(prefix + numeral) * _SCALE + slot for numeral in _decimal_suffixes[:count]]

    def _set_points(self, points: array[float], point_slots: array[int]) -> None:
        """Repeat the first point behind the last, so that bisection past the end needs no special case."""
        if points:
            points.append(_CIRCLE * _SCALE + point_slots[0])
            point_slots.append(point_slots[0])
        self._points, self._point_slots = points, point_slots
        self._index = None
        self._shift = 0
        self._lookups_until_index = len(points) // _POINTS_PER_LOOKUP + 1


def _point_count(name: str, weight: float, points: int) -> int:
    """How many points a weight is worth; whole thousandths decide, so that every language rounds alike."""
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"the weight of {name!r} is {weight!r}; a member of the ring needs a number above zero")
    return max(1, (thousandths(weight) * points + 500) // 1000)


def thousandths(weight: float) -> int:
    """A weight as a whole number, halves upwards; so in every language."""
    return int(weight * 1000 + 0.5)


def key_position(key: Key) -> int:
    """Where a key stands on the circle."""
    return _hash(key, 0, False)


def _position(packed: float) -> int:
    return int(packed / _SCALE) % _CIRCLE
