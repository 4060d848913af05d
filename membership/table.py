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

from rumormill.membership.member_state import MemberState, merge
from rumormill.membership.policy import PolicyTable, SignedPolicy
from rumormill.membership.record import Liveness, MemberId

MAX_UNVERIFIED_SHARE = 4
"""One part in so many of a table may be tombstones of lives it never knew: who makes them up keeps no newcomer out."""


class MemberChange(msgspec.Struct, frozen=True, gc=False):
    """What applying one row did to one slot."""

    before: MemberState | None
    after: MemberState | None
    """None when the slot was emptied."""

    @property
    def same_instance(self) -> bool:
        return self.before is not None and self.after is not None and self.before.instance == self.after.instance


class MemberTable:
    """The rows, by name and by half, and the present ones in monitoring order.

    ``settled`` and ``pending`` map names to rows and ``present_ids`` holds the halves of all present members, sorted;
    treat them as read-only and change the table through :meth:`apply` and :meth:`forget`.
    """

    def __init__(self, max_members: int = 10_000) -> None:
        self.settled: dict[str, MemberState] = {}
        self.pending: dict[str, MemberState] = {}
        self.present_ids: list[MemberId] = []
        self.suspects: dict[MemberId, None] = {}
        """Halves held suspect, in the order they came to be."""
        self.tombstones: dict[MemberId, None] = {}
        """Halves held dead or left."""
        self.touched: dict[MemberId, None] = {}
        """Halves whose rows came, changed or went; whoever shows the table looks at these, and clears them."""
        self.digest = 0
        self.version = 0
        """Moves at every change, suspicion included."""
        self.refused = 0
        """Rows turned away: the table was full, or the instance goes by another name."""
        self._max_members = max_members
        self._hearsay = 0
        """Rows without a record: tombstones of lives that were over when we heard of them, on somebody's word alone."""
        self._by_id: dict[MemberId, MemberState] = {}
        self.get: Callable[[MemberId], MemberState | None] = self._by_id.get
        """The row of exactly this instance, if it is still the one its name is held by."""
        self._buckets = array("I", bytes(4 * 256))
        self.policies = PolicyTable(self._count_checksum)
        """Changed through :meth:`apply_policy` only."""

    def __len__(self) -> int:
        return len(self.settled) + len(self.pending)

    def __iter__(self) -> Iterator[MemberState]:
        """Every row, in no promised order but the same one for the same history."""
        yield from self.settled.values()
        yield from self.pending.values()

    def states_of(self, name: str) -> list[MemberState]:
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

    def in_bucket(self, number: int) -> list[MemberId]:
        """The halves of the present members of one bucket, sorted."""
        order = self.present_ids
        end = len(order) if number == 255 else bisect_left(order, bytes((number + 1,)))
        return order[bisect_left(order, bytes((number,)), 0, end) : end]

    def apply(self, row: MemberState) -> MemberChange | None:
        """Merge one row into its slot; None when nothing changed."""
        slots = self.pending if row.pending else self.settled
        before = slots.get(row.name)
        after = merge(before, row)
        if after is before:
            return None
        elsewhere = self._by_id.get(row.member_id)
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
        return MemberChange(before, after)

    def would_change(self, row: MemberState) -> bool:
        """Whether :meth:`apply` might change anything: False is certain, and costs nothing."""
        slots = self.pending if row.pending else self.settled
        held = slots.get(row.name)
        return merge(held, row) is not held

    def apply_policy(self, policy: SignedPolicy) -> bool:
        """Merge one policy; False when nothing changed."""
        changed = self.policies.apply(policy)
        self.version += changed
        return changed

    def withdraw_suspicion(self, member_id: MemberId) -> MemberChange | None:
        """Take back a suspicion that was never spread: no merge, but for an observer that was itself cut off."""
        row = self._by_id.get(member_id)
        if row is None or row.liveness is not Liveness.SUSPECT:
            return None
        slots = self.pending if row.pending else self.settled
        after = row.with_liveness(Liveness.ALIVE)
        self._replace(slots, row, after)
        return MemberChange(row, after)

    def forget(self, member_id: MemberId) -> MemberChange | None:
        """Drop a row whose tombstone has served its time."""
        row = self._by_id.get(member_id)
        if row is None:
            return None
        self._drop(row)
        self.version += 1
        return MemberChange(row, None)

    def _admits(self, row: MemberState, before: MemberState | None) -> bool:
        """Room for it, and no instance under two names: keys are made for one name, so only a liar has that."""
        namesake = self._by_id.get(row.member_id)
        if namesake is not None and namesake.name != row.name:
            return False
        if before is not None or row.name in self.settled:
            return True
        if row.record is None and MAX_UNVERIFIED_SHARE * self._hearsay >= self._max_members:
            return False
        return len(self) < self._max_members

    def _drop(self, row: MemberState) -> None:
        del (self.pending if row.pending else self.settled)[row.name]
        self._unindex(row)

    def _replace(self, slots: dict[str, MemberState], before: MemberState | None, after: MemberState) -> None:
        if before is not None:
            self._unindex(before)
        slots[after.name] = after
        self._index(after)
        self.version += 1

    def _index(self, row: MemberState) -> None:
        member_id = row.member_id
        self._by_id[member_id] = row
        self.touched[member_id] = None
        self._hearsay += row.record is None
        if not row.present:
            self.tombstones[member_id] = None
            return
        position = bisect_left(self.present_ids, member_id)
        if position == len(self.present_ids) or self.present_ids[position] != member_id:
            self.present_ids.insert(position, member_id)
        if row.liveness is Liveness.SUSPECT:
            self.suspects[member_id] = None
        self._count(row)

    def _unindex(self, row: MemberState) -> None:
        member_id = row.member_id
        if self._by_id.get(member_id) is not row:
            return
        del self._by_id[member_id]
        self.touched[member_id] = None
        self._hearsay -= row.record is None
        self.tombstones.pop(member_id, None)
        self.suspects.pop(member_id, None)
        if row.present:
            del self.present_ids[bisect_left(self.present_ids, member_id)]
            self._count(row)

    def _count(self, row: MemberState) -> None:
        """Put a present row into the checksums, or take it out: exclusive-or does both."""
        self._count_checksum(row.member_id, row.checksum)

    def _count_checksum(self, member_id: MemberId, checksum: int) -> None:
        self.digest ^= checksum
        self._buckets[sync_bucket(member_id)] ^= checksum & 0xFFFFFFFF


def _supersedes(row: MemberState, known: MemberState) -> bool:
    """Whether an account of an instance is later than one of the same instance in the other slot."""
    return (row.generation, row.incarnation) > (known.generation, known.incarnation)


def sync_bucket(member_id: MemberId) -> int:
    """Which of the 256 sync buckets a member falls into."""
    return member_id[0]
