"""Which release serves a key: the first of the two stages, before any ring.

On a ring of a few hundred points, a share of 5 % lands anywhere between a third and twice its target. So the ring does
not decide the share. An independent hash of the key chooses the release. The ring of that release's workers then
chooses the worker. The rules (docs/reference/ring.md has them for other languages):

- There are 10 000 slots, one a basis point. A key's slot is a hash of it that the ring does not use.
- A release named in the policy (a *candidate*) holds as many slots as its share says. What no candidate holds belongs
  to the *rest*: the workers of every release that is not named.
- Candidates stand in the order of the policy's list. The first takes its slots from the bottom upwards, the second from
  the top downwards, the third and fourth from the middle, and so on; a slot already taken is passed over. So a share
  that rises takes keys from the rest only, for any two candidates, and for more while each stays below a quarter.
- A release without routable workers gets no keys. Each of its keys draws a new slot from the next hash, until the slot
  belongs to a release with workers. So its share falls to the others in proportion, and no other key moves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final

import mmh3

from rumormill.ring.worker import CanaryShare

SLOTS: Final = 10_000
REST: Final = None
"""Stands for all releases that no policy names."""
Group = str | None
"""A candidate's release, or the rest."""
MAX_DRAWS: Final = 64
"""After this many draws of groups without workers, the others follow in order of their shares."""
_SEED: Final = 0x67617465

_hash = mmh3.hash


class TrafficSplit:
    """The shares of one policy. Immutable."""

    __slots__ = ("_order", "_slots", "canary", "shares")

    def __init__(self, canary: Sequence[CanaryShare]) -> None:
        """If a release is named twice, its first share counts; shares beyond 100 % in all get what is left."""
        self.canary = tuple(canary)
        wanted: dict[str, int] = {}
        for share in canary:
            wanted.setdefault(share.release, basis_points(share.share))
        self._slots = _assign_slots(wanted)
        held = [self._slots.count(number) for number in range(1 + len(wanted))]
        self.shares: dict[Group, int] = dict(zip([REST, *wanted], held, strict=True))
        """Slots of each release, the rest first, then the candidates in the policy's order."""
        self._order = tuple(self.shares)

    def slot(self, key: str | bytes, draw: int = 0) -> int:
        """Where a key falls, by the hash of this draw."""
        return _hash(key, _SEED + draw, False) * SLOTS >> 32

    def group_of_slot(self, slot: int) -> Group:
        """The group that a slot belongs to."""
        return self._order[self._slots[slot]]

    def choose(self, key: str | bytes, present: Collection[Group]) -> Group:
        """The group that serves a key, among the groups with routable workers (at least one)."""
        group = self._order[self._slots[_hash(key, _SEED, False) * SLOTS >> 32]]
        return group if group in present else next(self.order(key, present))

    def order(self, key: str | bytes, present: Collection[Group]) -> Iterator[Group]:
        """All groups with routable workers, in a key's order of preference."""
        left = set(present)
        for draw in range(MAX_DRAWS if len(left) > 1 else 0):
            group = self.group_of_slot(self.slot(key, draw))
            if group in left:
                left.remove(group)
                yield group
                if len(left) < 2:
                    break
        yield from sorted(left, key=lambda group: (-self.shares[group], self._order.index(group)))

    def group(self, release: str) -> Group:
        """The group of the workers of a release."""
        return release if release in self.shares else REST


def basis_points(share: float) -> int:
    """A share as whole basis points, halves upwards, between none and all; so in every language."""
    return min(max(int(share * SLOTS + 0.5), 0), SLOTS)


def _assign_slots(wanted: dict[str, int]) -> list[int]:
    """The holder of every slot as a number: 0 the rest, and candidates from 1 in their order."""
    slots = [0] * SLOTS
    free = SLOTS
    for number, share in enumerate(wanted.values(), start=1):
        count = min(share, free)
        free -= count
        untaken = (slot for slot in _slot_preference(number - 1) if not slots[slot])
        for slot in islice(untaken, count):
            slots[slot] = number
    return slots


def _slot_preference(index: int) -> Iterator[int]:
    """All slots, in the order in which the candidate at this index takes them."""
    home = _start_slot(index // 2)
    if index % 2 == 0:
        return ((home + step) % SLOTS for step in range(SLOTS))
    return ((home - 1 - step) % SLOTS for step in range(SLOTS))


def _start_slot(pair: int) -> int:
    """0, 1/2, 1/4, 3/4, 1/8, ... of the slots: the bits of the pair's number, reversed (van der Corput)."""
    home, step = 0, SLOTS
    while pair:
        step //= 2
        home += step * (pair & 1)
        pair >>= 1
    return home % SLOTS
