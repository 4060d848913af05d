"""All rows one member holds, with the checksums that tell two tables apart.

Per name there are two slots, *settled* and *pending*: a newcomer to a name that lives is known without disturbing the
incumbent. Which slot a row belongs in is said by the record itself, never decided by its receiver (that merge would not
commute). A pending row that its own later, settled one has overtaken is dropped.

The digest is an exclusive-or over the records that are not dead or left, a suspect counted as alive: suspicion, misses,
votes and ages are local and passing, and two members that differ only in those have nothing to tell each other. It is
kept per bucket too (by first byte of the instance), for the delta sync. Policies are in it as well (policy.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator

import msgspec

from rumormill.membership.policy import Policy, PolicyTable
from rumormill.membership.record import Liveness
from rumormill.membership.row import Row, merge

HEARSAY_SHARE = 4
"""One part in so many of a table may be tombstones of lives it never knew: who makes them up keeps no newcomer out."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """What applying one row did to one slot."""

    before: Row | None
    after: Row | None
    """None when the slot was emptied."""

    @property
    def same_life(self) -> bool:
        return self.before is not None and self.after is not None and self.before.instance == self.after.instance


class MemberTable:
    """The rows, by name and by half, and the present ones in monitoring order.

    ``settled`` and ``pending`` map names to rows and ``order`` holds the halves of all present members, sorted; treat
    them as read-only and change the table through :meth:`apply` and :meth:`forget`.
    """

    def __init__(self, max_members: int = 10_000) -> None:
        self.settled: dict[str, Row] = {}
        self.pending: dict[str, Row] = {}
        self.order: list[bytes] = []
        self.suspects: dict[bytes, None] = {}
        """Halves held suspect, in the order they came to be."""
        self.buried: dict[bytes, None] = {}
        """Halves held dead or left."""
        self.touched: dict[bytes, None] = {}
        """Halves whose rows came, changed or went; whoever shows the table looks at these, and clears them."""
        self.digest = 0
        self.version = 0
        """Moves at every change, suspicion included."""
        self.refused = 0
        """Rows turned away: the table was full, or the instance goes by another name."""
        self._max_members = max_members
        self._hearsay = 0
        """Rows without a record: tombstones of lives that were over when we heard of them, on somebody's word alone."""
        self._by_half: dict[bytes, Row] = {}
        self.get: Callable[[bytes], Row | None] = self._by_half.get
        """The row of exactly this instance, if it is still the one its name is held by."""
        self._buckets = array("I", bytes(4 * 256))
        self.policies = PolicyTable(self._count_checksum)
        """Changed through :meth:`apply_policy` only."""

    def __len__(self) -> int:
        return len(self.settled) + len(self.pending)

    def __iter__(self) -> Iterator[Row]:
        """Every row, in no promised order but the same one for the same history."""
        yield from self.settled.values()
        yield from self.pending.values()

    def lives(self, name: str) -> list[Row]:
        """What is held of a name: settled, then pending."""
        return [row for row in (self.settled.get(name), self.pending.get(name)) if row is not None]

    def buckets(self) -> bytes:
        """256 checksums of 4 bytes, for the opening of a sync."""
        return self._buckets.tobytes()

    def differing_buckets(self, theirs: bytes) -> list[int]:
        """Which buckets of another table (from :meth:`buckets`) differ from ours."""
        return [
            number
            for number, (a, b) in enumerate(zip(self._buckets, memoryview(theirs).cast("I"), strict=True))
            if a != b
        ]

    def in_bucket(self, number: int) -> list[bytes]:
        """The halves of the present members of one bucket, sorted."""
        order = self.order
        end = len(order) if number == 255 else bisect_left(order, bytes((number + 1,)))
        return order[bisect_left(order, bytes((number,)), 0, end) : end]

    def apply(self, row: Row) -> Change | None:
        """Merge one row into its slot; None when nothing changed."""
        slots = self.pending if row.pending else self.settled
        before = slots.get(row.name)
        after = merge(before, row)
        if after is before:
            return None
        elsewhere = self._by_half.get(row.half)
        if elsewhere is not None and elsewhere.pending != row.pending and not _supersedes(row, elsewhere):
            return None  # the same instance, known in the other slot by a later account
        if row.pending and (settled := self.settled.get(row.name)) is not None and settled.life >= row.life:
            return None  # its own settled row, or a later life, has overtaken it
        if not self._admits(row, before):
            self.refused += 1
            return None
        if elsewhere is not None and elsewhere.pending != row.pending:
            self._drop(elsewhere)
        if not row.pending and (rival := self.pending.get(row.name)) is not None and rival.life <= after.life:
            self._drop(rival)
        self._replace(slots, before, after)
        return Change(before, after)

    def would_change(self, row: Row) -> bool:
        """Whether :meth:`apply` might change anything: False is certain, and costs nothing."""
        slots = self.pending if row.pending else self.settled
        held = slots.get(row.name)
        return merge(held, row) is not held

    def apply_policy(self, policy: Policy) -> bool:
        """Merge one policy; False when nothing changed."""
        changed = self.policies.apply(policy)
        self.version += changed
        return changed

    def withdraw_suspicion(self, half: bytes) -> Change | None:
        """Take back a suspicion that was never spread: no merge, but for an observer that was itself cut off."""
        row = self._by_half.get(half)
        if row is None or row.liveness is not Liveness.SUSPECT:
            return None
        slots = self.pending if row.pending else self.settled
        after = row.held(Liveness.ALIVE)
        self._replace(slots, row, after)
        return Change(row, after)

    def forget(self, half: bytes) -> Change | None:
        """Drop a row whose tombstone has served its time."""
        row = self._by_half.get(half)
        if row is None:
            return None
        self._drop(row)
        self.version += 1
        return Change(row, None)

    def _admits(self, row: Row, before: Row | None) -> bool:
        """Room for it, and no instance under two names: keys are made for one name, so only a liar has that."""
        namesake = self._by_half.get(row.half)
        if namesake is not None and namesake.name != row.name:
            return False
        if before is not None or row.name in self.settled:
            return True
        if row.record is None and HEARSAY_SHARE * self._hearsay >= self._max_members:
            return False
        return len(self) < self._max_members

    def _drop(self, row: Row) -> None:
        del (self.pending if row.pending else self.settled)[row.name]
        self._unindex(row)

    def _replace(self, slots: dict[str, Row], before: Row | None, after: Row) -> None:
        if before is not None:
            self._unindex(before)
        slots[after.name] = after
        self._index(after)
        self.version += 1

    def _index(self, row: Row) -> None:
        half = row.half
        self._by_half[half] = row
        self.touched[half] = None
        self._hearsay += row.record is None
        if not row.present:
            self.buried[half] = None
            return
        position = bisect_left(self.order, half)
        if position == len(self.order) or self.order[position] != half:
            self.order.insert(position, half)
        if row.liveness is Liveness.SUSPECT:
            self.suspects[half] = None
        self._count(row)

    def _unindex(self, row: Row) -> None:
        half = row.half
        if self._by_half.get(half) is not row:
            return
        del self._by_half[half]
        self.touched[half] = None
        self._hearsay -= row.record is None
        self.buried.pop(half, None)
        self.suspects.pop(half, None)
        if row.present:
            del self.order[bisect_left(self.order, half)]
            self._count(row)

    def _count(self, row: Row) -> None:
        """Put a present row into the checksums, or take it out: exclusive-or does both."""
        self._count_checksum(row.half, row.checksum)

    def _count_checksum(self, half: bytes, checksum: int) -> None:
        self.digest ^= checksum
        self._buckets[half_bucket(half)] ^= checksum & 0xFFFFFFFF


def _supersedes(row: Row, known: Row) -> bool:
    """Whether an account of an instance is later than one of the same instance in the other slot."""
    return (row.generation, row.incarnation) > (known.generation, known.incarnation)


def half_bucket(half: bytes) -> int:
    """Which of the 256 sync buckets a member falls into."""
    return half[0]
