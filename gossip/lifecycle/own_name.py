"""Our own name: taking it at the start, and keeping it.

A newcomer's generation is one above the highest known of its name. If a live incumbent holds the name, the newcomer
joins as *pending*: known and monitored, but not routed to. It settles when its table holds the incumbent dead or left.
The incumbent's monitors probe it at once, so a restart does not wait for three missed heartbeats. A live incumbent
tells the newcomer that the name is in use, and the newcomer stops.

Two settled instances of one name meet after a healed split, when a frozen incumbent wakes, or when a member lies.
Members keep the instance they hold while it is present, whatever the other says of itself, and show it to the other. So
each of the two learns which instance the members hold. It asks the members it knows, and yields if most of them hold
the other instance (or half of them, if the other is the later instance). To yield, it takes the next generation and
becomes pending. Then it is told that the name is in use, or settles when the other turns out to be dead. So neither one
liar nor a few newcomers can take a name from anybody.
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
    """Decides which instance of our name we are, and whether we hold the name."""

    __slots__ = (
        "_broadcast",
        "_leave_protocol",
        "_opposed",
        "_predecessors",
        "_probes",
        "_quorum",
        "_record_shown",
        "_review_at",
        "_state",
    )

    def __init__(
        self,
        state: NodeState,
        broadcast: Broadcast,
        leave_protocol: LeaveProtocol,
        probes: Probes,
    ) -> None:
        self._state = state
        self._broadcast = broadcast
        self._leave_protocol = leave_protocol
        self._probes = probes
        self._quorum: dict[MemberId, float] = {}
        """Members we asked which instance of our name they hold, and when."""
        self._opposed: dict[MemberId, float] = {}
        """Members that hold another instance of our name, and when they said so."""
        self._predecessors: dict[MemberId, tuple[int, float]] = {}
        """Instances that had ended when we took their name: at which incarnation, and until when peers may not know."""
        self._review_at = math.inf
        """When we look again whether the name is free, while pending."""
        self._record_shown = False
        """Whether we have shown our record to anybody. Until then we may choose our generation."""

    def choose_generation(self, instances: list[KnownInstance]) -> None:
        """Before we show our record: become the latest instance of the name, pending if the name is in use.

        This is decided the first time, and again where a member that we ask would not accept our record.
        """
        state = self._state
        if self._record_shown and not self._is_superseded(instances):
            return
        self._record_shown = True
        others = [known for known in instances if known.instance != state.me.instance]
        highest = max((known.generation for known in others), default=0)
        if highest >= state.identity.generation and highest + 1 < COUNTER_LIMIT:
            incumbent = any(known.liveness.present and not known.pending for known in others)
            self._change_generation(highest + 1, pending=incumbent)

    def _is_superseded(self, instances: list[KnownInstance]) -> bool:
        """Whether a later instance than ours has ended, or holds the name while we are pending.

        Two settled instances that are both alive contest the name instead.
        """
        me = self._state.me
        return any(
            known.instance != me.instance
            and (known.generation, known.instance) > me.succession
            and (not known.liveness.present or (me.pending and not known.pending))
            for known in instances
        )

    def reconcile(self) -> None:
        """Rows of our name changed: settle, tell a rival that the name is in use, or defend the name."""
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
            self._change_generation(settled.generation + 1, pending=settled.present)
            return
        if rival is not None and rival.present and rival.instance != state.me.instance:
            self._send_name_in_use(rival)

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
            self._probes.ping(holder)  # if it is alive, it tells us that the name is in use

    def should_yield(self, rival: MemberState, witness: MemberState | None) -> bool:
        """A member holds another settled instance of our name: whether we yield, and believe it."""
        state = self._state
        if state.stopped or state.identity.pending or not self._record_shown:
            return True
        incarnation, until = self._predecessors.get(rival.member_id, (-1, -math.inf))
        if rival.incarnation <= incarnation and state.now < until:
            return False
        self._update_quorum(witness)
        later = rival.succession > state.me.succession
        against = sum(1 for member_id in self._quorum if member_id in self._opposed)
        if 2 * against < len(self._quorum) or (2 * against == len(self._quorum) and not later):
            return False
        self._change_generation(max(rival.generation, state.me.generation) + 1, pending=True)
        return True

    def _update_quorum(self, witness: MemberState | None) -> None:
        """Note a member that holds another instance, ask the others, and forget what was said too long ago."""
        state = self._state
        for memory in (self._quorum, self._opposed):
            for member_id in [
                h for h, at in memory.items() if state.now - at > QUORUM_SECONDS or not self._may_testify(h)
            ]:
                del memory[member_id]
        ask = state.throttle(state.me.member_id, "quorum", QUORUM_SECONDS / 5)
        known = (
            [h for h in state.table.present_ids if self._may_testify(h)]
            if len(state.table.present_ids) <= MAX_QUORUM
            else []
        )
        rows = state.random_members(MAX_QUORUM) if not known else [r for h in known if (r := state.table.get(h))]
        chosen = {row.member_id: row for row in rows if self._may_testify(row.member_id)}
        for member_id in state.voter_eligibility.eligible(chosen):
            self._quorum.setdefault(member_id, state.now)
            if ask and member_id not in self._opposed:
                self._probes.ping(chosen[member_id])
        if (
            witness is not None
            and self._may_testify(witness.member_id)
            and state.voter_eligibility.eligible([witness.member_id])
        ):
            self._quorum[witness.member_id] = self._opposed[witness.member_id] = state.now

    def _may_testify(self, member_id: MemberId) -> bool:
        """Whether a member may testify. A suspect may not: it may be gone, and would never contradict us."""
        row = self._state.table.get(member_id)
        if row is None or row.liveness is not Liveness.ALIVE:
            return False
        return not row.pending and row.name != self._state.me.name

    def warn_if_rival(self, row: MemberState) -> None:
        """A member shows a sign of life. If it waits for our name, tell it that the name is in use."""
        me = self._state.me
        if row.name == me.name and row.member_id != me.member_id and row.pending and not me.pending:
            self._send_name_in_use(row)

    def handle_name_in_use(self, taken: NameInUse, sender: MemberState) -> None:
        """The holder of our name says so itself. Only a pending newcomer yields to that."""
        state = self._state
        if state.stopped is not None or not state.identity.pending or taken.name != state.me.name:
            return
        holder = state.table.settled.get(state.me.name)
        if holder is not None and holder.member_id == sender.member_id and taken.instance == sender.instance:
            self._stop(sender)

    def renew_keys(self) -> None:
        """Our keys have sealed enough datagrams: end this instance with a leave message, and begin another."""
        self._leave_protocol.announce_leave()
        self.rekey()

    def rekey(self) -> None:
        """Another process has our instance (a cloned machine): take new keys, in a new instance."""
        state = self._state
        state.take_new_keys()
        self._change_generation(state.identity.generation + 1, pending=False)

    def _settle(self, predecessor: MemberState | None) -> None:
        state = self._state
        generation = state.identity.generation
        if predecessor is not None:
            self._predecessors[predecessor.member_id] = predecessor.incarnation, state.now + QUORUM_SECONDS
            generation = max(generation, predecessor.generation + 1)
        self._change_generation(generation, pending=False)
        text = f"{state.me.name} took over its name from an earlier instance that has ended"
        state.record_event("settled", state.me.name, text)

    def _send_name_in_use(self, rival: MemberState) -> None:
        state = self._state
        if state.throttle(rival.member_id, "taken", state.settings.period):
            state.send(rival, NameInUse(state.me.name, state.me.instance))

    def _change_generation(self, generation: int, *, pending: bool) -> None:
        """Rewrite our record at this generation, or above all ended instances of the name, and broadcast it.

        What members said of our earlier instance no longer counts.
        """
        state = self._state
        self._quorum.clear()
        self._opposed.clear()
        instances = (row for row in state.table.states_of(state.me.name) if row.instance != state.me.instance)
        generation = max([generation, *(row.generation + 1 for row in instances if not row.present)])
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
        """Give up the name, and leave, so that nobody has to miss us first."""
        state = self._state
        self._review_at = math.inf
        self._leave_protocol.announce_leave(also=holder)
        who = "by a live member" if holder is not None else "for good: its generations are exhausted"
        if holder is not None and holder.address is not None:
            who += f" at {holder.address[0]}:{holder.address[1]} (instance {holder.instance.hex()})"
        state.stopped = (
            f"the name {state.me.name!r} is taken {who}: give this one another --name, or stop that one first"
        )
        state.record_event("taken", state.me.name, state.stopped)
