"""All rows that one member holds, with the checksums that tell two tables apart.

Each name has two slots, *settled* and *pending*. A newcomer to a name that is still in use gets the pending slot, so it
does not disturb the incumbent. The record itself states its slot. A receiver never decides it, because that merge would
not commute. A pending row is dropped when the same member's later, settled row overtakes it.

The digest is an exclusive-or over the records that are not dead or left. A suspect counts as alive: suspicions, misses,
votes and ages are local and short-lived, so members that differ only in these have nothing to tell each other. The
delta sync uses the same checksum per bucket (by the first byte of the instance). Policies are included (policy.py).
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
"""At most one row in this many may be a tombstone without a record. Invented tombstones must not fill the table."""


class MemberChange(msgspec.Struct, frozen=True, gc=False):
    """How one slot changed when a row was applied."""

    before: MemberState | None
    after: MemberState | None
    """None where the slot became empty."""

    @property
    def same_instance(self) -> bool:
        return self.before is not None and self.after is not None and self.before.instance == self.after.instance


class MemberTable:
    """The rows by name and by member id, and the present members in monitoring order.

    ``settled`` and ``pending`` map names to rows. ``present_ids`` holds the ids of all present members, sorted. Treat
    all three as read-only; change the table through :meth:`apply` and :meth:`forget`.
    """

    def __init__(self, max_members: int = 10_000) -> None:
        self.settled: dict[str, MemberState] = {}
        self.pending: dict[str, MemberState] = {}
        self.present_ids: list[MemberId] = []
        self.suspects: dict[MemberId, None] = {}
        """Ids of the suspects, in the order in which they became suspect."""
        self.tombstones: dict[MemberId, None] = {}
        """Ids of the members that are dead or left."""
        self.touched: dict[MemberId, None] = {}
        """Ids whose rows were added, changed or removed. The view builder reads and clears them."""
        self.digest = 0
        self.version = 0
        """Rises at every change, suspicions included."""
        self.refused = 0
        """Rows refused: the table was full, or the instance has another name."""
        self._max_members = max_members
        self._unverified = 0
        """Tombstones without a record: these instances had ended before we heard of them, so nothing verifies them."""
        self._by_id: dict[MemberId, MemberState] = {}
        self.get: Callable[[MemberId], MemberState | None] = self._by_id.get
        """The row of this instance, while the row is in one of its name's slots."""
        self._buckets = array("I", bytes(4 * 256))
        self.policies = PolicyTable(self._toggle_checksum)
        """Change it only through :meth:`apply_policy`."""

    def __len__(self) -> int:
        return len(self.settled) + len(self.pending)

    def __iter__(self) -> Iterator[MemberState]:
        """Every row. The order is unspecified, but the same for the same history."""
        yield from self.settled.values()
        yield from self.pending.values()

    def states_of(self, name: str) -> list[MemberState]:
        """The rows of a name: settled, then pending."""
        return [row for row in (self.settled.get(name), self.pending.get(name)) if row is not None]

    def buckets(self) -> bytes:
        """256 checksums of 4 bytes each, which open a sync."""
        return self._buckets.tobytes()

    def differing_buckets(self, theirs: bytes) -> list[int]:
        """The numbers of the buckets of another table (from :meth:`buckets`) that differ from ours."""
        return [
            number
            for number, (a, b) in enumerate(zip(self._buckets, memoryview(theirs).cast("I"), strict=True))
            if a != b
        ]

    def in_bucket(self, number: int) -> list[MemberId]:
        """The ids of the present members of one bucket, sorted."""
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
            return None  # the other slot holds a later record of the same instance
        if row.pending and (settled := self.settled.get(row.name)) is not None and settled.succession >= row.succession:
            return None  # the settled row is of the same instance or a later one
        if not self._admits(row, before):
            self.refused += 1
            return None
        if elsewhere is not None and elsewhere.pending != row.pending:
            self._drop(elsewhere)
        if (
            not row.pending
            and (rival := self.pending.get(row.name)) is not None
            and rival.succession <= after.succession
        ):
            self._drop(rival)
        self._replace(slots, before, after)
        return MemberChange(before, after)

    def would_change(self, row: MemberState) -> bool:
        """Whether :meth:`apply` may change anything. False is certain, and cheap to find."""
        slots = self.pending if row.pending else self.settled
        held = slots.get(row.name)
        return merge(held, row) is not held

    def apply_policy(self, policy: SignedPolicy) -> bool:
        """Merge one policy; False when nothing changed."""
        changed = self.policies.apply(policy)
        self.version += changed
        return changed

    def withdraw_suspicion(self, member_id: MemberId) -> MemberChange | None:
        """Withdraw a suspicion that was never spread, after the observer was itself cut off. This is not a merge."""
        row = self._by_id.get(member_id)
        if row is None or row.liveness is not Liveness.SUSPECT:
            return None
        slots = self.pending if row.pending else self.settled
        after = row.with_liveness(Liveness.ALIVE)
        self._replace(slots, row, after)
        return MemberChange(row, after)

    def forget(self, member_id: MemberId) -> MemberChange | None:
        """Remove a row, such as an expired tombstone."""
        row = self._by_id.get(member_id)
        if row is None:
            return None
        self._drop(row)
        self.version += 1
        return MemberChange(row, None)

    def _admits(self, row: MemberState, before: MemberState | None) -> bool:
        """Whether there is room, and the instance has no other name: only an attacker uses keys under two names."""
        known = self._by_id.get(row.member_id)
        if known is not None and known.name != row.name:
            return False
        if before is not None or row.name in self.settled:
            return True
        if row.record is None and MAX_UNVERIFIED_SHARE * self._unverified >= self._max_members:
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
        self._unverified += row.record is None
        if not row.present:
            self.tombstones[member_id] = None
            return
        position = bisect_left(self.present_ids, member_id)
        if position == len(self.present_ids) or self.present_ids[position] != member_id:
            self.present_ids.insert(position, member_id)
        if row.liveness is Liveness.SUSPECT:
            self.suspects[member_id] = None
        self._toggle(row)

    def _unindex(self, row: MemberState) -> None:
        member_id = row.member_id
        if self._by_id.get(member_id) is not row:
            return
        del self._by_id[member_id]
        self.touched[member_id] = None
        self._unverified -= row.record is None
        self.tombstones.pop(member_id, None)
        self.suspects.pop(member_id, None)
        if row.present:
            del self.present_ids[bisect_left(self.present_ids, member_id)]
            self._toggle(row)

    def _toggle(self, row: MemberState) -> None:
        """Add a present row to the checksums, or remove it. Exclusive-or does both."""
        self._toggle_checksum(row.member_id, row.checksum)

    def _toggle_checksum(self, member_id: MemberId, checksum: int) -> None:
        self.digest ^= checksum
        self._buckets[sync_bucket(member_id)] ^= checksum & 0xFFFFFFFF


def _supersedes(row: MemberState, known: MemberState) -> bool:
    """Whether a row is later than the row of the same instance in the other slot."""
    return (row.generation, row.incarnation) > (known.generation, known.incarnation)


def sync_bucket(member_id: MemberId) -> int:
    """The number of a member's sync bucket, 0 to 255."""
    return member_id[0]
