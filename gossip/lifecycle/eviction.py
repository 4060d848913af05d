"""From missed heartbeats to an eviction: suspicions, votes, and when they suffice.

A death is only as good as its votes. It is believed on two valid votes of distinct members that are alive *here*, and
never about a member heard within the last period. Any other claim of a death (from a healed partition, an old table or
a lone accuser) is merged as a suspicion and passed to its subject, who refutes it (death_claims.py). Merging deaths
literally at the first contact after a split evicted up to 127 of 128 members in a throwaway model.
"""

from __future__ import annotations

from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.votes import Vote, VoteBook
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.lifecycle.death_claims import DeathClaims
from rumormill.gossip.lifecycle.table_changes import TableChanges
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import SignedVote, Suspect, VoteMessage
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, MemberId


class Eviction(Part):
    """Suspects, votes and evicts."""

    __slots__ = ("_broadcast", "_changes", "_death_claims", "_partition_guard", "_state", "_votes")

    def __init__(
        self,
        state: NodeState,
        votes: VoteBook,
        broadcast: Broadcast,
        partition_guard: PartitionGuard,
        death_claims: DeathClaims,
        changes: TableChanges,
    ) -> None:
        self._state = state
        self._votes = votes
        self._broadcast = broadcast
        self._partition_guard = partition_guard
        self._death_claims = death_claims
        self._changes = changes

    # --- suspicion

    def suspect(self, row: MemberState, *, quietly: bool = False) -> None:
        """A member has missed two heartbeats in a row: suspect it. A ping with the claim is on its way to it already.

        ``quietly`` tells nobody else, where a vote follows at once.
        """
        if row.liveness is Liveness.ALIVE:
            self._partition_guard.local_suspicions[row.member_id] = None
            why = f"two misses seen by {self._state.me.name}"
            self._changes.apply(row.with_liveness(Liveness.SUSPECT), why, quietly=quietly)

    def suspect_everyone(self) -> None:
        """We hear nobody: suspect all members, also those we do not monitor.

        Nothing of it is broadcast. Callers then try this sidecar's own worker first.
        """
        state = self._state
        for member_id in state.table.present_ids:
            if member_id != state.me.member_id and (row := state.table.get(member_id)) is not None:
                self.suspect(row, quietly=True)

    # --- votes

    def vote(self, row: MemberState) -> None:
        """A member has missed three heartbeats in a row or more: vote against it, or renew our vote.

        The vote goes to the subject's other monitors and three random members. Where the misses were ICMP refusals, it
        also goes to those that send heartbeats to the subject: they see refusals too.
        """
        state = self._state
        if self._partition_guard.abstains and not state.refused_since_heard(row.member_id):
            return
        vote = self._sign_vote(row)
        state.counters["votes_cast"] += 1
        others = self._other_monitors(row.member_id)
        quorum = [other for member_id in others if (other := state.table.get(member_id))]
        quorum += state.random_members(3, exclude=(row.member_id, *others))
        for member in quorum:
            state.send(member, vote)
        if row.present:
            self.try_evict(row.member_id)
        else:  # dead here already, but the first votes did not suffice for everyone
            self._broadcast.announce(row.member_id, wide=True)

    def _sign_vote(self, row: MemberState) -> VoteMessage:
        state = self._state
        stamp = int(state.now * 1000) % 2**32
        signature = state.sign_vote(row, stamp)
        self._votes.add(row.member_id, Vote(state.me.member_id, row.incarnation, state.now, stamp, signature))
        return VoteMessage(row.member_id, row.incarnation, SignedVote(state.me.member_id, stamp, 0, signature))

    def _other_monitors(self, subject: MemberId) -> list[MemberId]:
        state, me = self._state, self._state.me.member_id
        others = [member_id for member_id in state.voter_eligibility.monitors_of(subject) if member_id != me]
        if state.refused_since_heard(subject):
            beating = state.voter_eligibility.heartbeat_senders_of(subject)
            others += [member_id for member_id in beating if member_id not in (me, *others)]
        return others

    def take_vote(self, subject: MemberState, vote: SignedVote, sender: MemberState) -> bool:
        """Store a vote if its voter really cast it; True if it is stored after the call."""
        state, incarnation = self._state, subject.incarnation
        if vote.voter == state.me.member_id:
            return False
        if self._votes.has(subject.member_id, vote.voter, incarnation, vote.stamp):
            return True
        voter = state.table.get(vote.voter)
        if voter is None or not state.signatures.check_vote(
            voter, subject, incarnation, vote, sender.member_id, state.now
        ):
            return False
        cast = state.now - vote.age / 1000
        self._votes.add(subject.member_id, Vote(vote.voter, incarnation, cast, vote.stamp, vote.signature))
        state.counters["votes_received"] += 1
        return True

    def others_need_our_vote(self, row: MemberState) -> bool:
        """Whether a member is dead here, but on votes that may not suffice for others, who wait for ours."""
        voters = [vote.voter for vote in self._votes.valid_votes(row.member_id)]
        return row.liveness is Liveness.DEAD and self._state.voter_eligibility.others_need_our_vote(voters)

    # --- eviction

    def try_evict(self, member_id: MemberId) -> bool:
        """Evict a member if its votes suffice; True if it is dead here after the call, or its death is deferred."""
        state = self._state
        row = state.table.get(member_id)
        if row is None or member_id == state.me.member_id or not row.present:
            return True
        if state.heard_lately(member_id):
            return False
        votes = self._votes.valid_votes(member_id)
        if not self._has_enough_votes(row, votes):
            return False
        if self._partition_guard.defer_eviction(member_id):
            self._changes.apply(row.with_liveness(Liveness.SUSPECT), "missing with many others")
            return not state.isolated
        voters = ", ".join(state.name_of(vote.voter) for vote in votes)
        refused = ", its host refuses" if state.refused_since_heard(member_id) else ""
        why = f"{state.settings.misses} misses seen by {voters}{refused}"
        state.counters["evictions_refused" if refused else "evictions_missed"] += 1
        self._changes.apply(row.with_liveness(Liveness.DEAD), why)
        return True

    def tick(self) -> None:
        self._evict_deferred()

    def _evict_deferred(self) -> None:
        """Evict members whose deaths were deferred because many came at once, and have waited long enough."""
        for member_id in self._partition_guard.due_evictions():
            row = self._state.table.get(member_id)
            if row is None or not row.present:
                self._partition_guard.on_removed(member_id)
            elif not self._partition_guard.defer_eviction(member_id):
                why = f"{self._state.settings.misses} misses, one of many losses at once"
                self._state.counters["evictions_mass_loss"] += 1
                self._changes.apply(row.with_liveness(Liveness.DEAD), why)

    def note_unconfirmed_death(self, row: MemberState, sender: MemberState) -> None:
        """A peer claims a death without votes that are valid here: suspect the member, and tell it."""
        state = self._state
        why = f"said to be dead by {sender.name}, without valid votes"
        self._changes.apply(row.with_liveness(Liveness.SUSPECT), why)
        self._death_claims.add(row)
        if state.throttle(row.member_id, "accuse", state.settings.period):
            state.send(row, Suspect(row.member_id, row.incarnation))

    @property
    def has_unconfirmed_deaths(self) -> bool:
        return bool(self._death_claims.unconfirmed)

    def take_unconfirmed_deaths(self, limit: int) -> list[MemberState]:
        """Members whose claimed deaths nobody refuted in time, at most ``limit``: the caller verifies them."""
        return self._death_claims.take_due(limit)

    def count_claim_as_vote(self, row: MemberState) -> None:
        """Peers prefer another instance of the name: that counts as the second vote against this one."""
        self._death_claims.count_as_vote(row)
        self.try_evict(row.member_id)

    # --- whether votes suffice

    def _has_enough_votes(self, row: MemberState, votes: list[Vote]) -> bool:
        if len(votes) >= 2:
            voters = [vote.voter for vote in votes]
            return self._state.voter_eligibility.is_quorum(voters) or self._saw_it_ourselves(row.member_id, voters)
        if not votes or votes[0].voter != self._state.me.member_id:
            return False
        return (
            self._partition_guard.may_evict_alone
            or self._death_claims.counts_as_vote(row)
            or (not row.pending and self._in_pool_of_two())
            or (self._state.refused_since_heard(row.member_id) and self._nobody_could_second(row))
        )

    def _nobody_could_second(self, row: MemberState) -> bool:
        """Whether no vote but ours could come: the kernels of all others refuse as well, and one member is left."""
        table, me = self._state.table, self._state.me.member_id
        others = (m for m in table.present_ids if m not in (me, row.member_id) and m not in table.suspects)
        return self._partition_guard.inbound_cut or all(self._is_pending(member_id) for member_id in others)

    def _saw_it_ourselves(self, member_id: MemberId, voters: list[MemberId]) -> bool:
        """Whether our own vote makes up for voters that do not suffice by themselves.

        It does where a kernel refused us, or where the member is suspect for longer than eligible voters would take.
        """
        state = self._state
        if state.me.member_id not in voters:
            return False
        since = state.suspect_since.get(member_id, state.now)
        return state.refused_since_heard(member_id) or state.now - since >= 2 * state.settings.period

    def _in_pool_of_two(self) -> bool:
        """Whether we and the subject are the whole pool, not counting newcomers that wait for a name."""
        table = self._state.table
        return len(table.present_ids) <= 4 and sum(1 for m in table.present_ids if not self._is_pending(m)) == 2

    def _is_pending(self, member_id: MemberId) -> bool:
        row = self._state.table.get(member_id)
        return row is not None and row.pending
