"""A weighted consistent-hash ring: one sorted list of packed points, searched by bisection.

The rules, exact enough to be written again in another language (docs/ring.md has them with test vectors):

- The ring is the 32-bit numbers in a circle. A member of weight ``w`` holds the points ``mmh3(name + "#" + j)`` for
  ``0 <= j < round(w * points)``, and at least one: a prefix of one endless sequence, so a change of weight adds or
  removes points at the end of it and moves nobody else's keys.
- A key belongs to the holder of the first point at or after ``mmh3(key)``, going around. Its further owners are the
  other members in the order in which their first points follow.
- Where two members share a point, the one whose name sorts first (by code point) comes first.

Each point is packed into one integer, hash above and a small number for its member (the slot) below, so that building
sorts plain integers and a lookup is one bisection. A slot is internal and says nothing about order: ties between
members are settled by name when points are placed, which keeps the ring independent of the order members came in.

A member comes or goes by copying the slices between its points: some 5 ms for 1000 members of 400 points, where
sorting or filtering the whole list takes three to nine times as long.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

import mmh3

DEFAULT_POINTS = 400
"""Points of a member of weight 1. More even out the load (the busiest of 100 equal members has about 1.13 times its
share, 1.17 with 256, 1.25 with 128) and cost as much more memory and building time. Every sidecar and client of a pool
must use the same number; it is part of the routing digest's version."""

_SLOT_BITS = 16
_SLOT_MASK = (1 << _SLOT_BITS) - 1
_BEYOND = 1 << (32 + _SLOT_BITS)
"""Greater than every packed point and every key."""
_FEW = 16
"""Up to this many distinct owners a scan of a short list is quicker than a set."""

Key = str | bytes
"""A string is hashed as its UTF-8 bytes."""

_hash = mmh3.hash


class EmptyRing(LookupError):
    """A ring without members owns nothing."""


class HashRing:
    """An immutable ring of weighted members. Equal weights give equal owners, however the ring came to be."""

    __slots__ = ("_free", "_names", "_per_weight", "_points", "_slots", "_weights")

    def __init__(self, weights: Mapping[str, float], *, points: int = DEFAULT_POINTS) -> None:
        """`weights` maps names to relative weights, 1.0 being normal, three decimals; `points` are those of weight 1.

        Raises ValueError for a weight that is not a number above zero, and for more than 65 536 members.
        """
        if points < 1:
            raise ValueError(f"a ring needs at least one point a member, not {points}")
        if len(weights) > _SLOT_MASK + 1:
            raise ValueError(f"a ring holds at most {_SLOT_MASK + 1} members, not {len(weights)}")
        self._per_weight = points
        self._weights = {name: weights[name] for name in sorted(weights)}
        self._names = list(self._weights)
        self._slots = {name: slot for slot, name in enumerate(self._names)}
        self._free: list[int] = []
        # Slots are in name order here, so sorting the packed points also settles ties by name.
        packed = [
            position << _SLOT_BITS | slot
            for slot, (name, weight) in enumerate(self._weights.items())
            for position in _positions(name, _point_count(name, weight, points))
        ]
        packed.sort()
        self._points = _closed(packed)

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
        points = self._points
        if not points:
            raise EmptyRing("the ring has no members, so no key has an owner")
        return self._names[points[bisect_left(points, _hash(key, 0, False) << _SLOT_BITS)] & _SLOT_MASK]

    def owners(self, key: Key, n: int) -> list[str]:
        """The first `n` distinct owners of `key`, in order of preference; fewer where there are fewer members."""
        if n > _FEW:
            return list(islice(self.walk(key), n))
        points, names = self._points, self._names
        at = bisect_left(points, _hash(key, 0, False) << _SLOT_BITS)
        found: list[str] = []
        try:
            while len(found) < n:
                name = names[points[at] & _SLOT_MASK]
                if name not in found:
                    found.append(name)
                at += 1
        except IndexError:  # past the end of the circle, or more asked for than there are
            return list(islice(self.walk(key), n))
        return found

    def walk(self, key: Key) -> Iterator[str]:
        """Every member once, in order of preference for `key`, found as it is asked for."""
        return (name for _, name in self.trace(key))

    def points(self) -> Iterator[tuple[int, str]]:
        """Every point around the circle: its position, below 2**32, and its member."""
        return ((packed >> _SLOT_BITS, self._names[packed & _SLOT_MASK]) for packed in self._points[:-1])

    def shares(self) -> dict[str, float]:
        """The part of the circle, and so of all keys, that each member owns."""
        arcs = dict.fromkeys(self._weights, 0)
        before = (self._points[-2] >> _SLOT_BITS) - 2**32 if self._points else 0
        for position, name in self.points():
            arcs[name] += position - before
            before = position
        return {name: arc / 2**32 for name, arc in arcs.items()}

    def trace(self, key: Key) -> Iterator[tuple[int, str]]:
        """The walk, each member with the position of the point at which it is met."""
        points, names = self._points, self._names
        start = bisect_left(points, _hash(key, 0, False) << _SLOT_BITS)
        seen = bytearray(len(names))
        left = len(self._weights)
        for stretch in (range(start, len(points)), range(start)):
            for at in stretch:
                slot = points[at] & _SLOT_MASK
                if not seen[slot]:
                    seen[slot] = 1
                    yield points[at] >> _SLOT_BITS & 0xFFFFFFFF, names[slot]
                    left -= 1
                    if not left:
                        return

    def owners_many(self, keys: Iterable[Key]) -> list[str]:
        """The owner of each key, in the keys' order; quicker than asking one by one. Raises :class:`EmptyRing`."""
        points, names, find, digest = self._points, self._names, bisect_left, _hash
        if not points:
            raise EmptyRing("the ring has no members, so no key has an owner")
        return [names[points[find(points, digest(key, 0, False) << _SLOT_BITS)] & _SLOT_MASK] for key in keys]

    def with_member(self, name: str, weight: float = 1.0) -> HashRing:
        """A ring in which `name` has `weight`: a new member, or the same one lighter or heavier."""
        if name in self._weights:
            ring, slot = self._copy(), self._slots[name]
            before = _point_count(name, self._weights[name], self._per_weight)
        else:
            ring, before = self._copy(), 0
            slot = ring._take_slot(name)
        after = _point_count(name, weight, self._per_weight)
        ring._weights[name] = weight
        ring._points = self._spliced(name, slot, _positions(name, before), _positions(name, after), ring._names)
        return ring

    def without_member(self, name: str) -> HashRing:
        """A ring without `name`; only that member's keys have another owner in it. Raises KeyError if it is not in."""
        held = _positions(name, _point_count(name, self._weights[name], self._per_weight))
        ring, slot = self._copy(), self._slots[name]
        del ring._weights[name], ring._slots[name]
        ring._free.append(slot)
        ring._points = self._spliced(name, slot, held, set(), ring._names)
        return ring

    def _copy(self) -> HashRing:
        ring = HashRing.__new__(HashRing)
        ring._per_weight = self._per_weight
        ring._weights, ring._slots = dict(self._weights), dict(self._slots)
        ring._names, ring._free = list(self._names), list(self._free)
        return ring

    def _take_slot(self, name: str) -> int:
        if self._free:
            slot = self._free.pop()
            self._names[slot] = name
        else:
            slot = len(self._names)
            if slot > _SLOT_MASK:
                raise ValueError(f"a ring holds at most {_SLOT_MASK + 1} members")
            self._names.append(name)
        self._slots[name] = slot
        return slot

    def _spliced(self, name: str, slot: int, before: set[int], after: set[int], names: list[str]) -> list[int]:
        """The points with those of one member changed from `before` to `after`, all others in their order."""
        points = self._points
        edits = [(self._place(position, name, names), False, position) for position in after - before]
        edits += [(self._find(position, slot), True, position) for position in before - after]
        # At one place additions sort before the removal, which then skips the old point behind them.
        edits.sort()
        result: list[int] = []
        done = 0
        for at, removal, position in edits:
            result += points[done:at]
            if removal:
                done = at + 1
            else:
                result.append(position << _SLOT_BITS | slot)
                done = at
        result += points[done:-1]
        return _closed(result)

    def _place(self, position: int, name: str, names: list[str]) -> int:
        """Where a point belongs: behind the points of the same hash whose members' names sort before."""
        points = self._points
        at = bisect_left(points, position << _SLOT_BITS)
        while at < len(points) and points[at] >> _SLOT_BITS == position and names[points[at] & _SLOT_MASK] < name:
            at += 1
        return at

    def _find(self, position: int, slot: int) -> int:
        at = bisect_left(self._points, position << _SLOT_BITS)
        while self._points[at] & _SLOT_MASK != slot:
            at += 1
        return at


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


def _positions(name: str, count: int) -> set[int]:
    """The member's points on the circle. A hash that comes up twice is one point."""
    prefix = name + "#"
    return {_hash(f"{prefix}{j}", 0, False) for j in range(count)}


def _closed(packed: list[int]) -> list[int]:
    """Repeat the first point behind the last, so that bisection past the end needs no special case."""
    if packed:
        packed.append(_BEYOND | (packed[0] & _SLOT_MASK))
    return packed
