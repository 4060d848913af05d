"""Other lives of the names that members hold: which of them waits, and whose silence they confirm.

A member keeps the settled life it holds while that is present and has not stood suspect for so long that it would have
refuted; another life of the name waits beside the table, and is shown the holder (docs/understand/protocol.md). What
concerns our own name is in own_name.py.
"""

from __future__ import annotations

from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState, merge
from rumormill.membership.record import MemberId

STAND = 3
"""Periods for which a silent holder keeps its name: it would have refuted by then."""
TO_GIVE_WAY = STAND + 2
"""Periods after which who is shown a later life of a name holds it, unless the one it holds stands."""
MAX_CLAIMANTS = 256
MAX_LEAP = 1 << 20
"""By how much a tombstone may put a life above the one that stands: generations must not be run out."""


class NameConflicts:
    """What is remembered of lives beside those the table holds. Changes nothing itself: membership_updates.py acts on
    it."""

    __slots__ = ("_outshone", "_state", "claimants")

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self.claimants: dict[str, MemberState] = {}
        """Settled lives of names whose holders are present here: they wait."""
        self._outshone: dict[MemberId, float] = {}
        """Lives long silent, and since when members have shown another of the name in their place."""

    def stands(self, holder: MemberState) -> bool:
        """Whether a name's holder is present, and not suspect for so long that it would have refuted."""
        if not holder.present:
            return False
        since = self._state.suspect_since.get(holder.member_id)
        return since is None or self._state.now - since < STAND * self._state.settings.period

    def holder_before(self, row: MemberState) -> MemberState | None:
        """Whom a settled life has to wait for; None where it is to be merged like any other row.

        Nobody takes a name by saying so: the holder must be found dead, or leave, or give way (own_name.py).
        """
        held = self._state.table.settled.get(row.name)
        if (
            row.pending
            or held is None
            or held.member_id == row.member_id
            or held.life >= row.life
            or not self.stands(held)
        ):
            return None
        return held

    def keep(self, row: MemberState) -> bool:
        """Let a life wait; False where too many do."""
        known = self.claimants.get(row.name)
        if known is None and len(self.claimants) >= MAX_CLAIMANTS:
            return False
        self.claimants[row.name] = row if known is None else merge(known, row)
        self._state.counters["names_contested"] += 1
        return True

    def admitted(self) -> list[MemberState]:
        """Those that need not wait any longer, since the holder has fallen silent, though nobody may call it dead."""
        settled = self._state.table.settled
        free = [name for name in self.claimants if (held := settled.get(name)) is None or not self.stands(held)]
        return [self.claimants.pop(name) for name in free]

    def successor_of(self, row: MemberState) -> MemberState | None:
        """Who waited for a name whose holder has died or left."""
        claimant = self.claimants.pop(row.name, None)
        return claimant if claimant is not None and claimant.member_id != row.member_id else None

    def outshone_by(self, row: MemberState) -> MemberState | None:
        """A member holds this life of a name: an earlier one than ours, a later one that is dead, or ourselves. Where
        the one held here has long been silent, and others go on showing another though they were shown it, that is a
        second vote against it: who holds the other has no row of it to vote on. Returns the one voted against."""
        state = self._state
        held = state.table.settled.get(row.name)
        if row.pending or held is None or held.member_id == row.member_id or not held.present or self.stands(held):
            return None
        if not row.present and row.life < held.life:
            return None  # that it ended says nothing of the one after it
        shown_for = state.now - self._outshone.setdefault(held.member_id, state.now)
        return held if shown_for >= TO_GIVE_WAY * state.settings.period else None

    def presumes(self, dead: MemberState) -> bool:
        """Whether a tombstone would bury a life that is present under another's name, or run out its generations."""
        holder = self._state.table.settled.get(dead.name)
        if holder is None:
            return False
        if holder.member_id != self._state.me.member_id:
            return holder.present
        return dead.generation > holder.generation + MAX_LEAP

    def forget(self, member_id: MemberId) -> None:
        """A life was heard of, or is gone: nobody shows another in its place."""
        self._outshone.pop(member_id, None)
