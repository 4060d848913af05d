"""Applying a row to the member table, and what follows from a change: memories, broadcasts, events.

Verdicts run alive, suspect, dead (or left), and only their subject can overturn one, by raising its incarnation. The
rule itself is :func:`rumormill.membership.merge`.
"""

from __future__ import annotations

from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.lifecycle.death_claims import DeathClaims
from rumormill.gossip.lifecycle.name_conflicts import NameConflicts
from rumormill.gossip.reporting.event_kinds import (
    SENTENCES,
    changes_routing,
    event_kind,
    self_reported_changes,
    state_words,
)
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, MemberId
from rumormill.membership.table import MemberChange

WITHDRAWN = "withdrawn: this member was cut off itself"


class TableChanges:
    """Applies rows to the table and carries out the consequences of each change."""

    __slots__ = (
        "_broadcast",
        "_death_claims",
        "_name_conflicts",
        "_partition_guard",
        "_state",
        "_votes",
    )

    def __init__(
        self,
        state: NodeState,
        votes: VoteBook,
        broadcast: Broadcast,
        partition_guard: PartitionGuard,
        name_conflicts: NameConflicts,
        death_claims: DeathClaims,
    ) -> None:
        self._state = state
        self._votes = votes
        self._broadcast = broadcast
        self._partition_guard = partition_guard
        self._name_conflicts = name_conflicts
        self._death_claims = death_claims

    def apply(self, row: MemberState, why: str = "", *, quietly: bool = False) -> bool:
        """Merge a row and carry out what follows; False if nothing changed. ``quietly`` does not broadcast it.

        A member that left stays gone, even if a record of a later generation arrives that it wrote before it left. The
        departure then counts for that record too.
        """
        held = self._state.table.get(row.member_id)
        if held is not None and held.liveness is Liveness.LEFT and row.present and row.generation > held.generation:
            row = row.with_leave(max(held.incarnation, row.incarnation), held.leave_signature)
        change = self._state.table.apply(row)
        if change is None:
            return False
        self._carry_out(change, why, quietly=quietly)
        return True

    def withdraw_suspicion(self, member_id: MemberId) -> bool:
        """Take back a suspicion of our own, because we were the one cut off; False if there is none."""
        self._partition_guard.local_suspicions.pop(member_id, None)
        change = self._state.table.withdraw_suspicion(member_id)
        if change is not None:
            self._carry_out(change, WITHDRAWN)
        return change is not None

    def _carry_out(self, change: MemberChange, why: str, *, quietly: bool = False) -> None:
        state, before, after = self._state, change.before, change.after
        if after is not None:
            state.voter_eligibility.note_known(after.member_id)
            if before is not None and before.instance != after.instance:
                self._forget_superseded(before.member_id)
            state.why[after.member_id] = why
            self._note_liveness(change, after)
            if not quietly:
                self._broadcast_change(change, after)
            self._emit_events(change, after, why)
        state.effects.table_changed(change)
        if after is not None and not after.present and not after.pending:
            claimant = self._name_conflicts.take_claimant_after(after)
            if claimant is not None:
                self.apply(claimant)

    def _note_liveness(self, change: MemberChange, after: MemberState) -> None:
        state, member_id = self._state, after.member_id
        if after.liveness is Liveness.SUSPECT:
            state.suspect_since.setdefault(member_id, state.now)
        else:
            state.suspect_since.pop(member_id, None)
        if after.liveness is Liveness.ALIVE:
            self._note_alive(change, after)
        elif not after.present:
            state.dead_since.setdefault(member_id, state.now)
            self._partition_guard.on_removed(member_id)
            self._death_claims.settle(member_id)
            self._name_conflicts.clear(member_id)

    def _note_alive(self, change: MemberChange, after: MemberState) -> None:
        state, before, member_id = self._state, change.before, after.member_id
        state.dead_since.pop(member_id, None)
        self._votes.clear(member_id)
        self._partition_guard.forget(member_id)
        self._name_conflicts.clear(member_id)
        self._death_claims.clear(member_id)
        if before is None and not after.pending:
            self._partition_guard.on_join()
        elif before is not None and before.instance == after.instance and before.liveness is not Liveness.ALIVE:
            state.alive_since[member_id] = state.now

    def _forget_superseded(self, member_id: MemberId) -> None:
        """Forget all about an instance that another has replaced, except that it was heard just now.

        Peers may still tell of it once more, and call it dead.
        """
        state = self._state
        self._votes.clear(member_id)
        self._partition_guard.forget(member_id)
        self._name_conflicts.clear(member_id)
        state.seal.forget(member_id)
        heard = state.last_heard[member_id] if state.heard_lately(member_id) else None
        for memory in state.per_member_maps():
            memory.pop(member_id, None)
        self._death_claims.clear(member_id)
        if heard is not None:
            state.last_heard[member_id] = heard

    def _broadcast_change(self, change: MemberChange, after: MemberState) -> None:
        if after.liveness is Liveness.SUSPECT:
            if not self._state.isolated:
                self._broadcast.announce(after.member_id)
            return
        if not after.present and self._is_old_tombstone(after):
            return
        self._broadcast.announce(after.member_id, wide=not after.present or changes_routing(change))

    def _is_old_tombstone(self, after: MemberState) -> bool:
        """Whether more than half of a tombstone's life is over. It is not passed on then, so that it can expire."""
        since = self._state.dead_since.get(after.member_id, self._state.now)
        return self._state.now - since > self._state.settings.tombstone_life / 2

    def _emit_events(self, change: MemberChange, after: MemberState, why: str) -> None:
        state = self._state
        if why == WITHDRAWN or (state.cut_off and after.liveness is Liveness.SUSPECT):
            return  # one event says that we are cut off, or no longer; not one for each member
        kind, more = event_kind(change), self_reported_changes(change, state.me)
        if kind and not (kind == "updated" and more):
            suffix = f": {why}" if why else ""
            if after.pending:  # it does not hold the name: nobody should read this as news of the holder
                text = f"a newcomer that waits for the name {after.name} {SENTENCES[kind]}{suffix}"
                state.record_event("newcomer", after.name, text)
            else:
                text = f"{after.name} {SENTENCES[kind]}{suffix}"
                state.record_event(kind, after.name, text, change=state_words(change, why))
        for kind, words in more.items():
            state.record_event(kind, after.name, f"{after.name} {words}")
