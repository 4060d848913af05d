"""Conflicts over the names of other members: which of two instances holds a name, and which waits.

We keep the settled instance we hold while it is present, and has not been suspect for so long that it would have
refuted. Another instance of the name waits beside the table, and is shown the holder (docs/understand/protocol.md).
Conflicts over our own name are in own_name.py.
"""

from __future__ import annotations

from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState, merge
from rumormill.membership.record import MemberId

HOLDER_GRACE_PERIODS = 3
"""Periods for which a suspect holder keeps its name: it would have refuted by then."""
YIELD_PERIODS = HOLDER_GRACE_PERIODS + 2
"""Periods after which a member that is shown a later instance of a name holds it, unless its own holder is
responsive."""
MAX_CLAIMANTS = 256
MAX_GENERATION_LEAP = 1 << 20
"""How far above the present instance a tombstone may be: nobody may exhaust the generations of a name."""


class NameConflicts:
    """Instances beside those the table holds. Changes nothing itself: membership_updates.py acts on it."""

    __slots__ = ("_opposed_since", "_state", "claimants")

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self.claimants: dict[str, MemberState] = {}
        """By name: settled instances that wait because the name's holder is present here."""
        self._opposed_since: dict[MemberId, float] = {}
        """Silent holders, and since when members have shown us another instance of the name."""

    def keeps_name(self, holder: MemberState) -> bool:
        """Whether a holder is present, and has not been suspect for so long that it would have refuted."""
        if not holder.present:
            return False
        since = self._state.suspect_since.get(holder.member_id)
        return since is None or self._state.now - since < HOLDER_GRACE_PERIODS * self._state.settings.period

    def blocking_holder(self, row: MemberState) -> MemberState | None:
        """The holder that a settled instance has to wait for; None where it is merged like any other row.

        Nobody takes a name by claiming it. The holder must be found dead, or leave, or give way (own_name.py).
        """
        held = self._state.table.settled.get(row.name)
        if row.pending or held is None or held.member_id == row.member_id:
            return None
        return held if held.succession < row.succession and self.keeps_name(held) else None

    def add_claimant(self, row: MemberState) -> bool:
        """Let an instance wait for its name; False if too many wait already."""
        known = self.claimants.get(row.name)
        if known is None and len(self.claimants) >= MAX_CLAIMANTS:
            return False
        self.claimants[row.name] = row if known is None else merge(known, row)
        self._state.counters["names_contested"] += 1
        return True

    def take_unopposed(self) -> list[MemberState]:
        """Claimants that need not wait longer: the holder is silent, even if nobody may declare it dead."""
        settled = self._state.table.settled
        free = [name for name in self.claimants if (held := settled.get(name)) is None or not self.keeps_name(held)]
        return [self.claimants.pop(name) for name in free]

    def take_claimant_after(self, row: MemberState) -> MemberState | None:
        """The claimant that waited for this row's name, whose holder has died or left."""
        claimant = self.claimants.pop(row.name, None)
        return claimant if claimant is not None and claimant.member_id != row.member_id else None

    def holder_opposed_by(self, row: MemberState) -> MemberState | None:
        """A member holds this instance of a name: an earlier one than ours, a later one that is dead, or itself.

        Returns the holder we have, if the other instance counts as a second vote against it. That is so where our
        holder has long been silent, and members go on showing us another instance although we have shown them ours.
        They have no row of our holder, so they cannot vote on it.
        """
        state = self._state
        held = state.table.settled.get(row.name)
        if row.pending or held is None or held.member_id == row.member_id or not held.present or self.keeps_name(held):
            return None
        if not row.present and row.succession < held.succession:
            return None  # a predecessor's death is not evidence against its successor
        opposed_for = state.now - self._opposed_since.setdefault(held.member_id, state.now)
        return held if opposed_for >= YIELD_PERIODS * state.settings.period else None

    def rejects_tombstone(self, dead: MemberState) -> bool:
        """Whether a tombstone would remove a present holder by another's death, or exhaust a name's generations."""
        holder = self._state.table.settled.get(dead.name)
        if holder is None:
            return False
        if holder.member_id != self._state.me.member_id:
            return holder.present
        return dead.generation > holder.generation + MAX_GENERATION_LEAP

    def clear(self, member_id: MemberId) -> None:
        """An instance was heard, or is gone: nobody opposes it any more."""
        self._opposed_since.pop(member_id, None)
