"""Taking a name, and keeping it.

A newcomer's generation is one above the highest known of its name. If a live incumbent holds the name it comes in
*pending*: known, watched, and not routed. It settles when its table holds the incumbent dead or left. The incumbent's
monitors look after it at once, so a restart does not wait out three periods; a live incumbent tells the rival that the
name is taken, and by whom, and the rival stops.

Two settled lives of one name meet where a split heals, where a frozen incumbent wakes, or where somebody lies. Members
keep the one they hold while it is present, whatever the other says of itself, and show it to the other. So each of the
two learns from members which life they hold. It asks those it knows, and gives way where most hold the other (or half
of them, if the other is the later life): it goes one higher, pending, and then is told that the name is taken, or
settles when the other turns out to be dead. One liar, or a few that have just come in, take no name from anybody.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.lifecycle.leave import LeaveProtocol
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import KnownInstance, NameInUse
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import COUNTER_LIMIT, Liveness, MemberId

QUORUM_SECONDS = 5.0
MAX_QUORUM = 33


class OwnName(Part):
    """Our own name: which life of it we are, and whether it is ours."""

    __slots__ = (
        "_against",
        "_broadcast",
        "_introduced",
        "_jury",
        "_leave_protocol",
        "_predecessors",
        "_probes",
        "_review_at",
        "_state",
    )

    def __init__(
        self,
        state: NodeState,
        spread: Broadcast,
        departure: LeaveProtocol,
        pings: Probes,
    ) -> None:
        self._state = state
        self._broadcast = spread
        self._leave_protocol = departure
        self._probes = pings
        self._jury: dict[MemberId, float] = {}
        """Whom we asked which life of our name they hold, and when."""
        self._against: dict[MemberId, float] = {}
        """Who holds another, and when it said so."""
        self._predecessors: dict[MemberId, tuple[int, float]] = {}
        """Lives that had ended when we took their name: the incarnation in which they had, and until when a witness
        may not have heard of it."""
        self._review_at = math.inf
        """When we look again, while pending."""
        self._introduced = False
        """Whether our record was shown to somebody who asked for it: until then we may still choose our life."""

    def choose_generation(self, lives: list[KnownInstance]) -> None:
        """Our record is about to be shown: be the latest life of the name, pending if it is in use.

        This is chosen the first time, and again where nobody there would take our record beside what they hold.
        """
        state = self._state
        if self._introduced and not self._outlived(lives):
            return
        self._introduced = True
        others = [life for life in lives if life.instance != state.me.instance]
        highest = max((life.generation for life in others), default=0)
        if highest >= state.identity.generation and highest + 1 < COUNTER_LIMIT:
            incumbent = any(life.liveness.present and not life.pending for life in others)
            self._become(highest + 1, pending=incumbent)

    def _outlived(self, lives: list[KnownInstance]) -> bool:
        """Whether a life above ours ended there, or is the incumbent's while we are pending.

        Two that both live and are settled contest the name instead.
        """
        me = self._state.me
        return any(
            life.instance != me.instance
            and (life.generation, life.instance) > me.life
            and (not life.liveness.present or (me.pending and not life.pending))
            for life in lives
        )

    def reconcile(self) -> None:
        """Rows of our name changed: settle, warn a rival, or defend ourselves."""
        state = self._state
        if state.stopped:
            return
        settled = state.table.settled.get(state.me.name)
        rival = state.table.pending.get(state.me.name)
        if state.identity.pending:
            ours = settled is not None and settled.instance == state.me.instance
            if settled is None or ours or not settled.present:
                self._settle(None if ours else settled)
            return
        if settled is not None and settled.instance != state.me.instance:
            self._become(settled.generation + 1, pending=settled.present)
            return
        if rival is not None and rival.present and rival.instance != state.me.instance:
            self._warn(rival)

    @property
    def deadline(self) -> float:
        """When to look at our name again; never once we leave."""
        return math.inf if self._state.leaving else self._review_at

    def tick(self) -> None:
        """While pending, look again every three periods."""
        if self._state.now < self.deadline:
            return
        self._review_at = self._state.now + 3 * self._state.settings.period
        self.reconcile()
        if self._state.identity.pending and (holder := self._state.table.settled.get(self._state.me.name)):
            self._probes.ping(holder)  # if it lives, it tells us that the name is taken

    def should_yield(self, rival: MemberState, witness: MemberState | None) -> bool:
        """A settled record of our name, not ours, from a member that holds it: True if it is to be believed."""
        state = self._state
        if state.stopped or state.identity.pending or not self._introduced:
            return True
        incarnation, until = self._predecessors.get(rival.member_id, (-1, -math.inf))
        if rival.incarnation <= incarnation and state.now < until:
            return False
        self._hear_witness(witness)
        later = rival.life > state.me.life
        against = sum(1 for member_id in self._jury if member_id in self._against)
        if 2 * against < len(self._jury) or (2 * against == len(self._jury) and not later):
            return False
        self._become(max(rival.generation, state.me.generation) + 1, pending=True)
        return True

    def _hear_witness(self, witness: MemberState | None) -> None:
        """Note who holds another life than ours, and ask others; what was said long ago does not count any more."""
        state = self._state
        for memory in (self._jury, self._against):
            for member_id in [
                h for h, at in memory.items() if state.now - at > QUORUM_SECONDS or not self._may_judge(h)
            ]:
                del memory[member_id]
        ask = state.throttle(state.me.member_id, "quorum", QUORUM_SECONDS / 5)
        known = (
            [h for h in state.table.present_ids if self._may_judge(h)]
            if len(state.table.present_ids) <= MAX_QUORUM
            else []
        )
        rows = state.random_members(MAX_QUORUM) if not known else [r for h in known if (r := state.table.get(h))]
        chosen = {row.member_id: row for row in rows if self._may_judge(row.member_id)}
        for member_id in state.voter_eligibility.eligible(chosen):
            self._jury.setdefault(member_id, state.now)
            if ask and member_id not in self._against:
                self._probes.ping(chosen[member_id])
        if (
            witness is not None
            and self._may_judge(witness.member_id)
            and state.voter_eligibility.eligible([witness.member_id])
        ):
            self._jury[witness.member_id] = self._against[witness.member_id] = state.now

    def _may_judge(self, member_id: MemberId) -> bool:
        """A suspect may not: it may be gone, and its silence would speak for us for ever."""
        row = self._state.table.get(member_id)
        if row is None or row.liveness is not Liveness.ALIVE:
            return False
        return not row.pending and row.name != self._state.me.name

    def warn_if_rival(self, row: MemberState) -> None:
        """A member of our own name, but not us, shows a sign of life."""
        me = self._state.me
        if row.name == me.name and row.member_id != me.member_id and row.pending and not me.pending:
            self._warn(row)

    def handle_name_in_use(self, taken: NameInUse, sender: MemberState) -> None:
        """The holder of our name says so, itself. Only a pending newcomer gives way to mere words."""
        state = self._state
        if state.stopped is not None or not state.identity.pending or taken.name != state.me.name:
            return
        holder = state.table.settled.get(state.me.name)
        if holder is not None and holder.member_id == sender.member_id and taken.instance == sender.instance:
            self._stop(sender)

    def renew_keys(self) -> None:
        """Our keys have sealed enough: end this life in good order, and begin another."""
        self._leave_protocol.announce_leave()
        self.rekey()

    def rekey(self) -> None:
        """Somebody else goes by our very instance (a cloned machine): take new keys, in a new life."""
        state = self._state
        state.take_new_keys()
        self._become(state.identity.generation + 1, pending=False)

    def _settle(self, predecessor: MemberState | None) -> None:
        state = self._state
        generation = state.identity.generation
        if predecessor is not None:
            self._predecessors[predecessor.member_id] = predecessor.incarnation, state.now + QUORUM_SECONDS
            generation = max(generation, predecessor.generation + 1)
        self._become(generation, pending=False)
        state.record_event("settled", state.me.name, f"{state.me.name} took its name over from a life that ended")

    def _warn(self, rival: MemberState) -> None:
        state = self._state
        if state.throttle(rival.member_id, "taken", state.settings.period):
            state.send(rival, NameInUse(state.me.name, state.me.instance))

    def _become(self, generation: int, *, pending: bool) -> None:
        """Write ourselves anew in this generation, or above lives of the name that ended, and say so to everyone. What
        others held before is settled with that."""
        state = self._state
        self._jury.clear()
        self._against.clear()
        lives = (row for row in state.table.states_of(state.me.name) if row.instance != state.me.instance)
        generation = max([generation, *(row.generation + 1 for row in lives if not row.present)])
        if generation >= COUNTER_LIMIT:
            self._stop(None)
            return
        state.identity.generation = generation
        state.identity.pending = pending
        self._review_at = state.now + 3 * state.settings.period if pending else math.inf
        state.raise_incarnation()
        self._broadcast.announce(state.me.member_id, wide=True)
        self._state.effects.own_record_changed()

    def _stop(self, holder: MemberState | None) -> None:
        """Give the name up, and say goodbye so that nobody has to miss us first."""
        state = self._state
        self._review_at = math.inf
        self._leave_protocol.announce_leave(also=holder)
        who = "by a live member" if holder is not None else "for good: its generations have run out"
        if holder is not None and holder.address is not None:
            who += f" at {holder.address[0]}:{holder.address[1]} (instance {holder.instance.hex()})"
        state.stopped = (
            f"the name {state.me.name!r} is taken {who}: give this one another --name, or stop that one first"
        )
        state.record_event("taken", state.me.name, state.stopped)
