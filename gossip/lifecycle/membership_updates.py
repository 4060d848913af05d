"""What peers say of members: records, suspicions, votes, deaths, departures. Whether to believe it, and what to answer.

A record or a departure is believed on its subject's signature, a death on its votes (eviction.py). A claim about us is
refuted, and a stale claim is corrected (refutation.py). If we lack the row that a verdict speaks of, we drop the
verdict and ask its sender for the row.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.lifecycle.name_conflicts import NameConflicts
from rumormill.gossip.lifecycle.refutation import Refutation
from rumormill.gossip.lifecycle.table_changes import TableChanges
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Dead, Leave, LeaveAck, Suspect, Tombstone, VoteMessage
from rumormill.membership.member_state import MemberState, member_state_of_record_untrusted, tombstone
from rumormill.membership.record import InvalidRecord, Liveness, MemberId, Signature


class MembershipUpdates(Part):
    """Decides what to believe of what peers say about members, and merges it."""

    __slots__ = (
        "_changes",
        "_eviction",
        "_name_conflicts",
        "_refutation",
        "_state",
    )

    def __init__(
        self,
        state: NodeState,
        changes: TableChanges,
        eviction: Eviction,
        refutation: Refutation,
        name_conflicts: NameConflicts,
    ) -> None:
        self._state = state
        self._changes = changes
        self._eviction = eviction
        self._refutation = refutation
        self._name_conflicts = name_conflicts

    # --- records

    def handle_record_untrusted(
        self,
        encoded: bytes,
        signature: Signature,
        source: Hashable,
        sender: MemberState | None = None,
        *,
        quietly: bool = False,
    ) -> MemberState | None:
        """Merge a record; returns the row it describes, or None if it was no valid record.

        ``source`` is who brought it (a member's id, or a stranger's address), ``sender`` that member, if it was one.
        ``quietly`` learns it without passing it on: what a sync or a welcome brings is news to us alone. The signature
        is checked only where the record would change anything.
        """
        state = self._state
        try:
            row = member_state_of_record_untrusted(encoded, signature)
        except InvalidRecord:
            state.counters["invalid_record"] += 1
            return None
        if row is state.table.get(row.member_id):
            return row  # by far the most common case: the same bytes as before
        rival = row.name == state.me.name and row.member_id != state.me.member_id and not row.pending
        if not rival and not self._is_news(row):
            self._handle_old_news(row, sender)
        elif not state.signatures.check_record(row, source, state.now):
            return None
        elif row.member_id == state.me.member_id:
            state.effects.instance_cloned()
        elif rival and not state.effects.name_contested(row, sender):
            self._refutation.send_update(state.me, sender or row)
        elif not self._must_wait_for_name(row) and not self._changes.apply(row, quietly=quietly):
            self._handle_old_news(row, sender)
        return row

    def _handle_old_news(self, row: MemberState, sender: MemberState | None) -> None:
        """A member sent us what we know already, or know better."""
        if sender is None:
            return
        if row.member_id != self._state.me.member_id:
            self._refutation.correct_stale(row, sender)
        self._weigh_other_instance(row)

    def _is_news(self, row: MemberState) -> bool:
        """Whether a record, if genuine, would change anything: about ourselves, only what we have not written."""
        me = self._state.me
        if row.member_id == me.member_id:
            return not self._state.leaving and (row.incarnation > me.incarnation or row.address != me.address)
        return self._state.table.would_change(row)

    def _must_wait_for_name(self, row: MemberState) -> bool:
        """Hold a settled instance back while another holds its name here, and show it that holder."""
        holder = self._name_conflicts.blocking_holder(row)
        if holder is None:
            return False
        if self._name_conflicts.add_claimant(row):
            self._refutation.send_update(holder, row)
        return True

    def _weigh_other_instance(self, row: MemberState) -> None:
        """A member holds another instance of a name than we do: that may be the second vote against ours."""
        held = self._name_conflicts.holder_opposed_by(row)
        if held is not None:
            self._eviction.count_claim_as_vote(held)

    @property
    def lazy_deadline(self) -> float:
        """While there are claimants, at each heartbeat."""
        return -math.inf if self._name_conflicts.claimants else math.inf

    def tick(self) -> None:
        if self._name_conflicts.claimants:
            self._admit_claimants()

    def _admit_claimants(self) -> None:
        """Give names to claimants whose holders have fallen silent, even where nobody may declare the holder dead."""
        for claimant in self._name_conflicts.take_unopposed():
            self._changes.apply(claimant)

    # --- what a sender should know

    def check_sender(self, row: MemberState, incarnation: int) -> None:
        """A sender that is ahead of its row here is asked for its record. If we hold it suspect or dead, it is told."""
        if incarnation > row.incarnation:
            self._refutation.request_row(row.member_id, row)
        elif row.liveness is not Liveness.ALIVE:
            self._refutation.send_update(row, row)

    def send_other_instances(self, newcomer: MemberState, instances: Iterable[MemberState]) -> None:
        """Show a newcomer what we hold of other instances of its name, sealed for it, so that it knows who says so."""
        for other in instances:
            if not other.present:  # a bare record would bring the dead instance back in the newcomer's eyes
                self._refutation.send_update(other, newcomer, by_name=True)
            elif other.member_id != newcomer.member_id:
                self._refutation.send_update(other, newcomer)

    def withdraw_suspicion(self, member_id: MemberId) -> bool:
        """Take back a suspicion of our own, because we were the one cut off; False if there is none."""
        return self._changes.withdraw_suspicion(member_id)

    # --- verdicts

    def handle_suspect(self, claim: Suspect, sender: MemberState) -> None:
        if row := self._subject(claim.subject, claim.incarnation, sender):
            self._changes.apply(row.with_liveness(Liveness.SUSPECT), f"suspected by way of {sender.name}")

    def handle_vote(self, vote: VoteMessage, sender: MemberState) -> None:
        if row := self._subject(vote.subject, vote.incarnation, sender):
            if vote.vote.voter != sender.member_id or not self._eviction.take_vote(row, vote.vote, sender):
                return
            if row.liveness is Liveness.ALIVE:  # quietly: its suspicion was broadcast before, or its death follows
                why = f"three misses seen by {sender.name}"
                self._changes.apply(row.with_liveness(Liveness.SUSPECT), why, quietly=True)
            self._eviction.try_evict(row.member_id)

    def handle_death(self, death: Dead, sender: MemberState, *, stale: bool = False) -> None:
        """``stale`` for what waited in the socket while we were paused: its votes are older than they say."""
        if row := self._subject(death.subject, death.incarnation, sender, wide=True):
            for vote in [] if stale else death.votes:
                self._eviction.take_vote(row, vote, sender)
            if not self._eviction.try_evict(row.member_id):
                self._eviction.note_unconfirmed_death(row, sender)

    def handle_leave(self, claim: Leave, sender: MemberState) -> None:
        """A member leaves. Acknowledged to the member itself each time, if it speaks wire version 2."""
        self._take_leave(claim, sender)
        row = self._state.table.get(claim.subject)
        left = row is not None and row.liveness is Liveness.LEFT
        if left and claim.subject == sender.member_id and self._state.speaks(sender, 2):
            self._state.send(sender, LeaveAck(claim.subject, claim.incarnation))

    def _take_leave(self, claim: Leave, sender: MemberState) -> None:
        state = self._state
        if claim.subject == state.me.member_id:
            self._refutation.refute(claim.incarnation, sender, wide=True)
            return
        row = state.table.get(claim.subject)
        if row is None or row.liveness is Liveness.LEFT:
            return
        if row.incarnation <= claim.incarnation:
            if state.signatures.check_leave(row, claim.incarnation, claim.signature, sender.member_id, state.now):
                self._changes.apply(row.with_leave(claim.incarnation, claim.signature), "said so itself")
        elif row.present:
            self._refutation.send_update(row, sender)

    def handle_tombstone(self, stone: Tombstone, sender: MemberState) -> None:
        """A dead instance, by name. It is news if we do not know the instance; else a claimed death, or a departure."""
        state = self._state
        dead = tombstone(stone.name, stone.generation, stone.instance, stone.incarnation, Liveness(stone.liveness))
        if dead.member_id == state.me.member_id:
            self._refutation.refute(stone.incarnation, sender, wide=True)
            return
        if stone.age >= state.settings.tombstone_life:
            return
        held = state.table.get(dead.member_id)
        if held is not None and held.instance == dead.instance:
            self._handle_known_tombstone(stone, dead, held, sender)
        elif not self._name_conflicts.rejects_tombstone(dead):
            state.dead_since.setdefault(dead.member_id, state.now - stone.age)  # first: an old one is not passed on
            if not self._changes.apply(dead, "heard of after the event"):
                state.dead_since.pop(dead.member_id, None)
        self._weigh_other_instance(dead)

    def _handle_known_tombstone(
        self, stone: Tombstone, dead: MemberState, held: MemberState, sender: MemberState
    ) -> None:
        if dead.liveness is Liveness.LEFT and stone.leave_signature:
            self._take_leave(Leave(dead.member_id, dead.incarnation, stone.leave_signature), sender)
        elif held.present and held.incarnation <= dead.incarnation:
            self._eviction.note_unconfirmed_death(held, sender)
        elif held.present:
            self._refutation.send_update(held, sender)

    def _subject(
        self, member_id: MemberId, incarnation: int, sender: MemberState, *, wide: bool = False
    ) -> MemberState | None:
        """The row a verdict speaks of, if we are to consider it; otherwise refutes, asks for the row or corrects."""
        state = self._state
        if member_id == state.me.member_id:
            self._refutation.refute(incarnation, sender, wide=wide)
            return None
        row = state.table.get(member_id)
        if row is None or row.incarnation < incarnation:
            self._refutation.request_row(member_id, sender)
            return None
        if row.incarnation > incarnation:
            self._refutation.send_update(row, sender)
            return None
        return row if row.present else None
