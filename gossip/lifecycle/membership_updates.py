"""What is said of a member, and whether to believe it.

Verdicts run alive, suspect, dead (or left), and only their subject can overturn one, by raising its incarnation.

A death is only as good as its votes. It is believed on two valid votes of distinct members that are alive *here*, and
never about somebody heard within the last period. Otherwise (a healed partition, an old table, a lone accuser) it is
merged as a suspicion and passed to its subject, who refutes it. Where no refutation comes within a period the receiver
verifies for itself, and its own three misses then confirm, the claim standing as the second vote. Merging deaths
literally at the first contact after a split evicted up to 127 of 128 members in a throwaway model.

Whoever lacks the row a verdict speaks of drops the verdict and asks its sender for the row. A stale accusation is
answered with what is known better, once a period and peer, so that no two members are dead to each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.votes import Vote, VoteBook
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.lifecycle.name_conflicts import NameConflicts
from rumormill.gossip.reporting.event_kinds import SENTENCES, event_kind, routability_moved, self_description
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Dead, Leave, SignedVote, Suspect, SyncRequest, Tombstone, VoteMessage, encode_message
from rumormill.membership.member_state import MemberState, member_state_of_record_untrusted, tombstone
from rumormill.membership.record import InvalidRecord, Liveness, MemberId, Signature
from rumormill.membership.table import MemberChange

MAX_UNCONFIRMED_DEATHS = 256
"""Deaths without valid votes that wait for a refutation; more are dropped, and found again by sync."""


WITHDRAWN = "withdrawn: we were cut off ourselves"


class MembershipUpdates:
    """Applies what is heard and what we conclude to the table, and sees to the consequences of each change."""

    __slots__ = (
        "_broadcast",
        "_name_conflicts",
        "_on_change",
        "_on_clone",
        "_on_rival",
        "_partition_guard",
        "_standing",
        "_state",
        "_votes",
        "doubted",
    )

    def __init__(
        self,
        state: NodeState,
        votes: VoteBook,
        spread: Broadcast,
        isolation: PartitionGuard,
        namesakes: NameConflicts,
        on_change: Callable[[MemberChange], None],
        on_clone: Callable[[], None],
        on_rival: Callable[[MemberState, MemberState | None], bool],
    ) -> None:
        self._state = state
        self._votes = votes
        self._broadcast = spread
        self._partition_guard = isolation
        self._name_conflicts = namesakes
        self._on_change = on_change
        self._on_clone = on_clone
        """Another process has our keys: a copy of this machine, or this one as it was set back."""
        self._on_rival = on_rival
        """Another life of our name is said to hold it: True if we give way."""
        self.doubted: dict[MemberId, float] = {}
        """Deaths without valid votes, and when to verify them ourselves if nobody has refuted."""
        self._standing: dict[MemberId, int] = {}
        """Incarnations at which somebody claimed a death we verify: their claim is the second vote."""

    # --- what others say

    def hear_record_untrusted(
        self,
        encoded: bytes,
        signature: Signature,
        bearer: Hashable,
        sender: MemberState | None = None,
        *,
        quietly: bool = False,
    ) -> MemberState | None:
        """Merge a record; returns the row it describes, or None if it was no valid record.

        ``bearer`` is who brought it (a half, or a stranger's address), ``sender`` the member that did, if it was one.
        ``quietly`` learns it without passing it on: what a sync or a welcome brings is news to us alone. Its signature
        is checked where it would change anything.
        """
        state = self._state
        try:
            row = member_state_of_record_untrusted(encoded, signature)
        except InvalidRecord:
            state.counters["invalid_record"] += 1
            return None
        if row is state.table.get(row.member_id):
            return row  # by far the most: what everyone passes on, we heard before
        rival = row.name == state.me.name and row.member_id != state.me.member_id and not row.pending
        if not rival and not self._is_news(row):
            self._changed_nothing(row, sender)
        elif not state.signatures.of_record(row, bearer, state.now):
            return None
        elif row.member_id == state.me.member_id:
            self._on_clone()
        elif rival and not self._on_rival(row, sender):
            self.answer(state.me, sender or row)
        elif not self._held_aside(row) and not self.apply(row, quietly=quietly):
            self._changed_nothing(row, sender)
        return row

    def _changed_nothing(self, row: MemberState, sender: MemberState | None) -> None:
        """A member told us what we know, or know better."""
        if sender is None:
            return
        if row.member_id != self._state.me.member_id:
            self._correct(row, sender)
        self._hear_of_another_life(row)

    def _is_news(self, row: MemberState) -> bool:
        """Whether a record, if it is genuine, tells us anything: of our own instance, what we have not written."""
        me = self._state.me
        if row.member_id == me.member_id:
            return not self._state.leaving and (row.incarnation > me.incarnation or row.address != me.address)
        return self._state.table.would_change(row)

    def _held_aside(self, row: MemberState) -> bool:
        """Keep a settled life waiting while the holder of its name is present here, and show it that holder."""
        holder = self._name_conflicts.holder_before(row)
        if holder is None:
            return False
        if self._name_conflicts.keep(row):
            self.answer(holder, row)
        return True

    def _hear_of_another_life(self, row: MemberState) -> None:
        """A member holds another life of a name than we do: that may be the second vote against ours."""
        held = self._name_conflicts.outshone_by(row)
        if held is not None:
            self._standing[held.member_id] = held.incarnation
            self.conclude(held.member_id)

    def hear_suspect(self, claim: Suspect, sender: MemberState) -> None:
        if row := self._subject(claim.subject, claim.incarnation, sender):
            self.apply(row.with_liveness(Liveness.SUSPECT), f"suspected by way of {sender.name}")

    def hear_vote(self, vote: VoteMessage, sender: MemberState) -> None:
        if row := self._subject(vote.subject, vote.incarnation, sender):
            if vote.vote.voter != sender.member_id or not self._take_vote(row, vote.vote, sender):
                return
            if row.liveness is Liveness.ALIVE:  # quietly: a suspicion has gone before it, or a death follows at once
                self.apply(row.with_liveness(Liveness.SUSPECT), f"three misses seen by {sender.name}", quietly=True)
            self.conclude(row.member_id)

    def hear_death(self, death: Dead, sender: MemberState, *, stale: bool = False) -> None:
        """``stale`` for what lay in the socket while we were paused: its votes are older than they say."""
        if row := self._subject(death.subject, death.incarnation, sender, wide=True):
            for vote in [] if stale else death.votes:
                self._take_vote(row, vote, sender)
            if not self.conclude(row.member_id):
                self._doubt(row, sender)

    def hear_left(self, claim: Leave, sender: MemberState) -> None:
        state = self._state
        if claim.subject == state.me.member_id:
            self._accused(claim.incarnation, sender, wide=True)
            return
        row = state.table.get(claim.subject)
        if row is None or row.liveness is Liveness.LEFT:
            return
        if row.incarnation <= claim.incarnation:
            if state.signatures.of_leave(row, claim.incarnation, claim.signature, sender.member_id, state.now):
                self.apply(row.with_leave(claim.incarnation, claim.signature), "said so itself")
        elif row.present:
            self.answer(row, sender)

    def hear_tombstone(self, stone: Tombstone, sender: MemberState) -> None:
        """A dead life by name: news if we do not know the life, a death without votes if we hold it alive."""
        state = self._state
        dead = tombstone(stone.name, stone.generation, stone.instance, stone.incarnation, Liveness(stone.liveness))
        if dead.member_id == state.me.member_id:
            self._accused(stone.incarnation, sender, wide=True)
            return
        if stone.age >= state.settings.tombstone_life:
            return
        held = state.table.get(dead.member_id)
        if held is not None and held.instance == dead.instance:
            if dead.liveness is Liveness.LEFT and stone.leave_signature:
                self.hear_left(Leave(dead.member_id, dead.incarnation, stone.leave_signature), sender)
            elif held.present and held.incarnation <= dead.incarnation:
                self._doubt(held, sender)
            elif held.present:
                self.answer(held, sender)
        elif not self._name_conflicts.presumes(dead):
            # Of the name's other life, the later counts; a tombstone of ours in its second half hour is not passed on.
            state.dead_since.setdefault(dead.member_id, state.now - stone.age)
            if not self.apply(dead, "heard of after the event"):
                state.dead_since.pop(dead.member_id, None)
        self._hear_of_another_life(dead)

    # --- what we conclude ourselves

    def miss_everybody(self) -> None:
        """Nobody is heard: everybody is missing, also those we do not watch. Spread to nobody; callers try us first."""
        state = self._state
        for member_id in state.table.present_ids:
            if member_id != state.me.member_id and (row := state.table.get(member_id)) is not None:
                self.suspect(row, quietly=True)

    def withdraw(self, member_id: MemberId) -> bool:
        """Take back a suspicion of our own, since it was us who was cut off; False if there is none."""
        self._partition_guard.local_suspicions.pop(member_id, None)
        change = self._state.table.withdraw_suspicion(member_id)
        if change is not None:
            self.consequences(change, WITHDRAWN)
        return change is not None

    def suspect(self, row: MemberState, *, quietly: bool = False) -> None:
        """Two misses in a row: say so, to the subject first of all (a ping with the claim is on its way). ``quietly``
        tells nobody else, where a vote follows at once."""
        if row.liveness is Liveness.ALIVE:
            self._partition_guard.local_suspicions[row.member_id] = None
            self.apply(
                row.with_liveness(Liveness.SUSPECT), f"two misses seen by {self._state.me.name}", quietly=quietly
            )

    def vote(self, row: MemberState) -> None:
        """Three misses in a row or more: vote, or renew the vote. Where they were refusals, also before those whose
        heartbeats go to the subject: they are refused just now as well, and have not heard it as its monitors have."""
        state = self._state
        if self._partition_guard.abstains and not state.refused_since_heard(row.member_id):
            return
        stamp = int(state.now * 1000) % 2**32
        signature = state.sign_vote(row, stamp)
        self._votes.add(row.member_id, Vote(state.me.member_id, row.incarnation, state.now, stamp, signature))
        vote = VoteMessage(row.member_id, row.incarnation, SignedVote(state.me.member_id, stamp, 0, signature))
        others = [h for h in state.voter_eligibility.monitors_of(row.member_id) if h != state.me.member_id]
        if state.refused_since_heard(row.member_id):
            others += [
                h
                for h in state.voter_eligibility.heartbeat_senders_of(row.member_id)
                if h not in (state.me.member_id, *others)
            ]
        quorum = [other for h in others if (other := state.table.get(h))]
        quorum += state.random_members(3, exclude=(row.member_id, *others))
        for member in quorum:
            state.send(member, vote)
        if row.present:
            self.conclude(row.member_id)
        else:  # dead here before, but not for all on the votes that came first
            self._broadcast.announce(row.member_id, wide=True)

    def others_need_our_vote(self, row: MemberState) -> bool:
        """Whether a member is dead here on votes that may not suffice for others, who wait for ours."""
        voters = [vote.voter for vote in self._votes.valid_votes(row.member_id)]
        return row.liveness is Liveness.DEAD and self._state.voter_eligibility.others_need_our_vote(voters)

    def conclude(self, member_id: MemberId) -> bool:
        """Evict a member if that is warranted; True if it is dead here (or its death waits) after the call."""
        state, settings = self._state, self._state.settings
        row = state.table.get(member_id)
        if row is None or member_id == state.me.member_id:
            return True
        if not row.present:
            return True
        if state.heard_lately(member_id):
            return False
        votes = self._votes.valid_votes(member_id)
        if not self._enough(row, votes):
            return False
        if self._partition_guard.defer_eviction(member_id):
            self.apply(row.with_liveness(Liveness.SUSPECT), "missing with many others")
            return not state.isolated
        voters = ", ".join(state.name_of(vote.voter) for vote in votes)
        refused = ", its host refuses" if state.refused_since_heard(member_id) else ""
        self.apply(row.with_liveness(Liveness.DEAD), f"{settings.misses} misses seen by {voters}{refused}")
        return True

    def release_held(self) -> None:
        """Carry out deaths that have waited long enough because many came at once."""
        for member_id in self._partition_guard.due_evictions():
            row = self._state.table.get(member_id)
            if row is None or not row.present:
                self._partition_guard.on_removed(member_id)
            elif not self._partition_guard.defer_eviction(member_id):
                self.apply(
                    row.with_liveness(Liveness.DEAD),
                    f"{self._state.settings.misses} misses, one of many losses at once",
                )

    def admit_claimants(self) -> None:
        """Let those have a name whose holder has fallen silent, though nobody may call it dead."""
        for claimant in self._name_conflicts.admitted():
            self.apply(claimant)

    def take_doubted(self, room: int) -> list[MemberState]:
        """Deaths nobody refuted in time, at most ``room`` of them, to be verified by ourselves."""
        rows: list[MemberState] = []
        for member_id, due in list(self.doubted.items()):
            if due > self._state.now or len(rows) == room:
                break
            del self.doubted[member_id]
            row = self._state.table.get(member_id)
            if row is not None and row.liveness is Liveness.SUSPECT:
                self._standing[member_id] = row.incarnation
                rows.append(row)
        return rows

    # --- consequences

    def apply(self, row: MemberState, why: str = "", *, quietly: bool = False) -> bool:
        """Merge a row and see to what follows; False if nothing changed. Who left does not come back by a record of a
        later generation, written before and come in after: it has left as what that record says."""
        held = self._state.table.get(row.member_id)
        if held is not None and held.liveness is Liveness.LEFT and row.present and row.generation > held.generation:
            row = row.with_leave(max(held.incarnation, row.incarnation), held.leave_signature)
        change = self._state.table.apply(row)
        if change is None:
            return False
        self.consequences(change, why, quietly=quietly)
        return True

    def consequences(self, change: MemberChange, why: str, *, quietly: bool = False) -> None:
        state, before, after = self._state, change.before, change.after
        if after is not None:
            state.voter_eligibility.note_known(after.member_id)
            if before is not None and before.instance != after.instance:
                self._forget(before.member_id)
            state.why[after.member_id] = why
            self._note_liveness(change, after)
            if not quietly:
                self._spread_change(change, after)
            self._tell(change, after, why)
        self._on_change(change)
        if after is not None and not after.present and not after.pending:
            claimant = self._name_conflicts.successor_of(after)
            if claimant is not None:
                self.apply(claimant)

    def _note_liveness(self, change: MemberChange, after: MemberState) -> None:
        state, before = self._state, change.before
        if after.liveness is Liveness.SUSPECT:
            state.suspect_since.setdefault(after.member_id, state.now)
        else:
            state.suspect_since.pop(after.member_id, None)
        if after.liveness is Liveness.ALIVE:
            state.dead_since.pop(after.member_id, None)
            self._votes.clear(after.member_id)
            self._partition_guard.forget(after.member_id)
            self._name_conflicts.forget(after.member_id)
            self.doubted.pop(after.member_id, None)
            self._standing.pop(after.member_id, None)
            if before is None and not after.pending:
                self._partition_guard.on_join()
            elif before is not None and before.instance == after.instance and before.liveness is not Liveness.ALIVE:
                state.alive_since[after.member_id] = state.now
        elif not after.present:
            state.dead_since.setdefault(after.member_id, state.now)
            self._partition_guard.on_removed(after.member_id)
            self.doubted.pop(after.member_id, None)
            self._name_conflicts.forget(after.member_id)

    def _forget(self, member_id: MemberId) -> None:
        """A life that has been superseded leaves nothing behind, but that it was heard just now: it may be told of once
        more, and called dead."""
        state = self._state
        self._votes.clear(member_id)
        self._partition_guard.forget(member_id)
        self._name_conflicts.forget(member_id)
        state.seal.forget(member_id)
        heard = state.last_heard[member_id] if state.heard_lately(member_id) else None
        for memory in (*state.per_member_maps(), self.doubted, self._standing):
            memory.pop(member_id, None)
        if heard is not None:
            state.last_heard[member_id] = heard

    def _spread_change(self, change: MemberChange, after: MemberState) -> None:
        if after.liveness is Liveness.SUSPECT:
            if not self._state.isolated:
                self._broadcast.announce(after.member_id)
            return
        if not after.present and self._in_second_half(after):
            return
        self._broadcast.announce(after.member_id, wide=not after.present or routability_moved(change))

    def _in_second_half(self, after: MemberState) -> bool:
        since = self._state.dead_since.get(after.member_id, self._state.now)
        return self._state.now - since > self._state.settings.tombstone_life / 2

    def _tell(self, change: MemberChange, after: MemberState, why: str) -> None:
        state = self._state
        if why == WITHDRAWN or (state.cut_off and after.liveness is Liveness.SUSPECT):
            return  # that we are cut off, or not any more, is told once and not of each member
        kind, more = event_kind(change), self_description(change, state.me)
        if kind and not (kind == "updated" and more):
            suffix = f": {why}" if why else ""
            if after.pending:  # not the holder of the name, and nobody should read it as news of the holder
                text = f"a newcomer that waits for the name {after.name} {SENTENCES[kind]}{suffix}"
                state.record_event("newcomer", after.name, text)
            else:
                state.record_event(kind, after.name, f"{after.name} {SENTENCES[kind]}{suffix}")
        for kind, words in more.items():
            state.record_event(kind, after.name, f"{after.name} {words}")

    # --- helpers of the above

    def _subject(
        self, member_id: MemberId, incarnation: int, sender: MemberState, *, wide: bool = False
    ) -> MemberState | None:
        """The row a verdict speaks of, if it is to be considered here; refutes, asks or answers otherwise."""
        state = self._state
        if member_id == state.me.member_id:
            self._accused(incarnation, sender, wide=wide)
            return None
        row = state.table.get(member_id)
        if row is None or row.incarnation < incarnation:
            self.ask(member_id, sender)
            return None
        if row.incarnation > incarnation:
            self.answer(row, sender)
            return None
        return row if row.present else None

    def ask(self, member_id: MemberId, peer: MemberState) -> None:
        """Ask a peer for a row it seems to hold, once a period."""
        if self._state.throttle(member_id, "want", self._state.settings.period):
            self._state.send(peer, SyncRequest([member_id]))

    def answer(self, row: MemberState, peer: MemberState, *, by_name: bool = False) -> None:
        """Tell a peer what we know of a member, once a period for each member and peer.

        ``by_name`` says of a dead one no more than a peer understands that never held its row.
        """
        if self._state.throttle(row.member_id + peer.member_id, "answer", self._state.settings.period):
            news = encode_message(self._broadcast.tombstone(row)) if by_name else self._broadcast.news_of(row)
            self._state.send_encoded(peer, [news])

    def _take_vote(self, subject: MemberState, vote: SignedVote, sender: MemberState) -> bool:
        """Hold a vote, if its voter cast it; True if it is held after the call."""
        state, incarnation = self._state, subject.incarnation
        if vote.voter == state.me.member_id:
            return False
        if self._votes.has(subject.member_id, vote.voter, incarnation, vote.stamp):
            return True
        voter = state.table.get(vote.voter)
        if voter is None or not state.signatures.of_vote(
            voter, subject, incarnation, vote, sender.member_id, state.now
        ):
            return False
        cast = state.now - vote.age / 1000
        self._votes.add(subject.member_id, Vote(vote.voter, incarnation, cast, vote.stamp, vote.signature))
        return True

    def _accused(self, incarnation: int, sender: MemberState, *, wide: bool) -> None:
        """Somebody doubts us: raise our incarnation, which voids what was said; or show it is old.

        At an incarnation above ours there is nothing to refute: nobody can hold what we have not signed.
        """
        state = self._state
        if state.leaving:
            return
        if incarnation == state.me.incarnation:
            state.raise_incarnation()
            state.counters["refutations"] += 1
            state.record_event("refuted", state.me.name, f"{state.me.name} refuted a claim passed on by {sender.name}")
            self._broadcast.announce(state.me.member_id, wide=wide)
        self._partition_guard.mute_detector.on_accusation(sender, incarnation)
        if not self._partition_guard.outbound_cut:
            self.answer(state.me, sender)

    def _correct(self, heard: MemberState, sender: MemberState) -> None:
        """If what we hold is a verdict or a later account, the sender ought to know."""
        for held in self._state.table.states_of(heard.name):
            later = held.life > heard.life or (held.life == heard.life and held.incarnation > heard.incarnation)
            worse = held.life == heard.life and not held.present and held.incarnation >= heard.incarnation
            if worse or (later and held.pending == heard.pending):  # of another life, it need never have held the row
                self.answer(held, sender, by_name=not held.present and held.member_id != heard.member_id)

    def _doubt(self, row: MemberState, sender: MemberState) -> None:
        """A death that has no valid votes here: a suspicion, and its subject is told."""
        state = self._state
        self.apply(row.with_liveness(Liveness.SUSPECT), f"said to be dead by {sender.name}, without valid votes")
        if (
            row.member_id not in self.doubted
            and row.member_id not in self._standing
            and len(self.doubted) < MAX_UNCONFIRMED_DEATHS
        ):
            self.doubted[row.member_id] = state.now + state.settings.period
        if state.throttle(row.member_id, "accuse", state.settings.period):
            state.send(row, Suspect(row.member_id, row.incarnation))

    def _enough(self, row: MemberState, votes: list[Vote]) -> bool:
        if len(votes) >= 2:
            voters = [vote.voter for vote in votes]
            return self._state.voter_eligibility.is_quorum(voters) or self._seen_ourselves(row.member_id, voters)
        if not votes or votes[0].voter != self._state.me.member_id:
            return False
        return (
            self._partition_guard.may_evict_alone
            or self._standing.get(row.member_id) == row.incarnation
            or (not row.pending and self._in_pool_of_two())
            or (self._state.refused_since_heard(row.member_id) and self._nobody_could_second(row))
        )

    def _nobody_could_second(self, row: MemberState) -> bool:
        """Whether no vote but ours could come: of a pool most of whose kernels refuse, one is left."""
        table, me = self._state.table, self._state.me.member_id
        member_ids = (h for h in table.present_ids if h not in (me, row.member_id) and h not in table.suspects)
        return self._partition_guard.inbound_cut or all(self._is_pending(member_id) for member_id in member_ids)

    def _seen_ourselves(self, member_id: MemberId, voters: list[MemberId]) -> bool:
        """Whether our own eyes make up for whose the other votes are: a kernel refused us, or it has taken longer than
        those who outweigh anybody would."""
        state = self._state
        if state.me.member_id not in voters:
            return False
        since = state.suspect_since.get(member_id, state.now)
        return state.refused_since_heard(member_id) or state.now - since >= 2 * state.settings.period

    def _in_pool_of_two(self) -> bool:
        """We and the subject are all there is (a newcomer to the subject's name aside)."""
        table = self._state.table
        return len(table.present_ids) <= 4 and sum(1 for h in table.present_ids if not self._is_pending(h)) == 2

    def _is_pending(self, member_id: MemberId) -> bool:
        row = self._state.table.get(member_id)
        return row is not None and row.pending
