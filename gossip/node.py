"""The protocol core of one member: bytes and time in, bytes and conclusions out.

A :class:`Node` does no I/O, reads no clock and draws no randomness of its own. The real transport and the simulator
drive the same object with the same sealed bytes:

* :meth:`Node.receive_datagram` for each datagram, as soon as it is read;
* :meth:`Node.receive_refusal` for each of our datagrams that a kernel refused, before reading the socket;
* :meth:`Node.handle_timer` at :attr:`Node.deadline`, after everything that can be read was read;
* :meth:`Node.datagrams_to_send` after each of these; :attr:`Node.view` and :meth:`Node.take_events` for what it found.

A datagram goes one way: seal, wire, the part it concerns, the table, the changes. parts.py lists the parts in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from rumormill.gossip.config import NodeConfig
from rumormill.gossip.coordinator import Coordinator
from rumormill.gossip.dispatch import DatagramDispatch
from rumormill.gossip.identity import Profile
from rumormill.gossip.inspection import NodeInspection
from rumormill.gossip.part import ANY, HEARTBEAT, NOTHING, Part, StepEffect
from rumormill.gossip.parts import build_parts
from rumormill.gossip.reporting.load_view import LoadView
from rumormill.gossip.reporting.view_builder import ViewBuilder, member_details
from rumormill.gossip.security.credentials import MemberKeys
from rumormill.gossip.security.key_audit import KeyAudit
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.signature_verifier import MAX_CHECKS_PER_TURN
from rumormill.gossip.state import NodeState
from rumormill.membership.load import CallerCounts
from rumormill.membership.measurements import GossipMeasurements
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import Address, InstanceId, MemberId
from rumormill.membership.table import MemberTable
from rumormill.membership.view import Connectivity, Event, MemberDetail, PoolView


class Node:
    """One member of the pool.

    ``now`` is in seconds on a clock that also counts suspended time (CLOCK_BOOTTIME on Linux). If it goes back (a
    virtual machine was restored to an earlier moment), the node treats that as a pause: its own time stands still, and
    everything it remembers keeps its age. ``rng`` makes protocol choices; ``token_bytes`` makes keys and secrets.
    """

    def __init__(
        self, config: NodeConfig, *, rng: random.Random, token_bytes: Callable[[int], bytes], now: float
    ) -> None:
        keys = MemberKeys.generate(token_bytes, config.credential)
        self._state = state = NodeState(
            identity=config.identity(keys),
            cluster=config.cluster,
            seal=config.make_seal(config.keyring, config.cluster, keys),
            authority=config.authority,
            rng=rng,
            token_bytes=token_bytes,
            settings=config.settings,
            now=now,
        )
        self._parts = parts = build_parts(state, config)
        self._in_order = parts.in_order()
        self._failure_detector, self._broadcast = parts.failure_detector, parts.broadcast
        others = [part for part in self._in_order if part is not parts.failure_detector]
        self._with_deadline = [part for part in others if type(part).deadline is not Part.deadline]
        self._with_lazy_deadline = [part for part in others if type(part).lazy_deadline is not Part.lazy_deadline]
        state.effects = self._coordinator = Coordinator(state, parts)
        parts.policy_replication.restore(config.policies)
        self._dispatch = DatagramDispatch(state, parts)
        self._view_builder = ViewBuilder(state)
        self.load_view = LoadView(state, lambda: self._ahead)
        """How busy the workers of present members are, as far as it is known."""
        self._inspection = NodeInspection(state, parts)
        self._ahead = 0.0
        """Seconds by which our time is ahead of the caller's clock, because that went back."""
        self._other_deadline = self._others_due = now
        """The earliest deadline of all parts but the failure detector; the same with their lazy deadlines."""
        self.deadline = now
        """When to call :meth:`handle_timer` next, in seconds on the caller's clock."""

    # --- verbs

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        """Set the addresses of possible members: resolved seeds, or a snapshot. Replaces the former ones."""
        self._parts.join.set_seeds(addresses)
        self._end_step()

    def receive_datagram(self, data: bytes, source: Address, now: float, arrived: float | None = None) -> None:
        """Take in one datagram. No bytes make it raise: a datagram of no use is counted and dropped.

        ``arrived`` is when it arrived, at ``now`` or before. The time that it waited for us is not network jitter.
        """
        if self._state.stopped is not None or self._dispatch.drops_early(data, now + self._ahead):
            return
        self._step_to(now)
        self._state.arrived = self._state.now if arrived is None else arrived + self._ahead
        effect = self._dispatch.receive_untrusted(data, source)
        if effect is not NOTHING:
            self._end_step(effect)

    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None:
        """The kernel at ``address`` refused a datagram: no process has that port. Quotes our datagram. Never raises."""
        if self._state.stopped is None:
            self._step_to(now)
            self._parts.icmp_evidence.on_refusal_untrusted(datagram, address)
            self._end_step()

    def handle_timer(self, now: float) -> None:
        """Do what is due. Call it each time the socket is drained, and when :attr:`deadline` has come. Costs nothing
        before the deadline."""
        state, dispatch = self._state, self._dispatch
        state.signatures.checks_left = MAX_CHECKS_PER_TURN
        due = state.now > now + self._ahead or now >= self.deadline or dispatch.resuming
        if state.stopped is not None or not due:
            return
        self._step_to(now)
        if state.now < self._others_due and not (dispatch.resuming or dispatch.waiting):
            self._end_step(self._failure_detector.tick())
            return
        dispatch.resuming = False
        dispatch.process_waiting()
        for part in self._in_order:
            part.tick()
        self._end_step()

    def datagrams_to_send(self) -> list[tuple[Address, bytes]]:
        """Empty the outbox."""
        outbox = self._state.outbox
        if outbox:
            self._state.outbox = []
            self._state.sent += len(outbox)
        return outbox

    def take_events(self) -> list[Event]:
        """What happened since the last call, oldest first; at most 1000 events are kept."""
        events = self._state.events
        if events:
            self._state.events = []
        return events

    def update(self, profile: Profile, now: float) -> None:
        """Announce a new profile of our worker. A change of readiness is broadcast wide, any other to three members."""
        state = self._state
        if state.gone or profile == state.identity.profile:
            return
        self._step_to(now)
        wide = profile.readiness != state.identity.profile.readiness
        state.set_profile(profile)
        self._coordinator.own_record_changed()
        self._broadcast.announce(state.me.member_id, wide=wide)
        self._end_step()

    def write_policy(self, service: str, body: bytes, at: int, now: float) -> PolicyRecord:
        """Make this encoded body the pool's policy. ``at`` is wall time in milliseconds, for display.

        Raises PolicyRefused.
        """
        if self._state.stopped is None:
            self._step_to(now)
        record = self._parts.policy_replication.write(service, body, at)
        self._end_step()
        return record

    def worker_failed(self, now: float) -> None:
        """The worker was ready, and then ended, refused or answered wrongly. If it keeps failing it goes on probation.

        Do not report a worker that only does not answer its checks: it may be busy.
        """
        if not self._state.gone:
            self._step_to(now)
            self._parts.flap_damping.worker_failed()
            self._end_step()

    def measure_load(self, utilization: float | None, queue: int, now: float) -> None:
        """Our worker's load was measured; None if it cannot be. 1.0 is full. Announced with a heartbeat if it moved."""
        if not self._state.gone:
            self._step_to(now)
            self._parts.load_announcer.measure(utilization, queue)
            self._end_step()

    def tell_callers(self, counts: Mapping[MemberId, CallerCounts], now: float) -> None:
        """Tell these members what our callers report of their workers: a doubt at once, the rest with a heartbeat."""
        if not self._state.gone:
            self._step_to(now)
            self._parts.load_announcer.tell_callers(counts)
            self._end_step()

    def leave(self, now: float) -> None:
        """Leave the pool. Keep driving the node until :attr:`has_left`."""
        if not self._state.gone:
            self._step_to(now)
            self._parts.leave_protocol.begin()
            self._end_step()

    def change_keys(self, ring: KeyRing, now: float) -> None:
        """Make this the key ring of the whole pool. Does nothing in plaintext.

        Promote or remove a key only after :meth:`audit_keys` has settled. Otherwise a member that lags is cut off until
        it learns the new ring.
        """
        if self._state.gone or self.keyring is None:
            return
        self._step_to(now)
        self._parts.key_rotation.change(ring)
        self._end_step()

    def audit_keys(self, now: float) -> KeyAudit:
        """Ask every present member which key ring it holds, or go on asking. Returns the answers so far."""
        self._step_to(now)
        audit = self._parts.key_rotation.audit()
        self._end_step()
        return audit

    def change_settings(self, *, grace: float | None = None, misses: float | None = None) -> None:
        """Judge others by another grace (seconds) or number of misses from now on: to see what that would change."""
        state = self._state
        state.settings = replace(
            state.settings,
            grace=state.settings.grace if grace is None else grace,
            misses=state.settings.misses if misses is None else int(misses),
        )
        self._failure_detector.set_grace(state.settings.grace)

    # --- conclusions

    @property
    def has_left(self) -> bool:
        """Whether our leave was announced for long enough."""
        return self._parts.leave_protocol.finished

    @property
    def stopped(self) -> str | None:
        """Why this node stopped (its name is taken, and by whom). It sends nothing from then on."""
        return self._state.stopped

    @property
    def joined(self) -> bool:
        """Whether we hold the row of any other member."""
        return self._parts.join.joined

    @property
    def connectivity(self) -> Connectivity:
        """Our connectivity to the others. Unless connected, what we say about them may be old."""
        return self._state.connectivity

    @property
    def is_connected(self) -> bool:
        return not self._state.isolated

    @property
    def generation(self) -> int:
        return self._state.identity.generation

    @property
    def instance(self) -> InstanceId:
        return self._state.me.instance

    @property
    def probation(self) -> float:
        """Remaining seconds of our flap probation, in which we take no work; 0 for none."""
        return self._parts.flap_damping.remaining

    @property
    def policies(self) -> list[tuple[bytes, bytes]]:
        """All policies, encoded, with their signatures, to keep for the next start."""
        return [(policy.encoded, policy.signature) for policy in self._state.table.policies]

    def policy_history(self) -> list[PolicyRecord]:
        """The last policies that we learned of, oldest first."""
        return list(self._parts.policy_replication.history)

    @property
    def keyring(self) -> KeyRing | None:
        """The keys accepted now, the primary first; None in plaintext."""
        return self._parts.key_rotation.ring

    @property
    def key_version(self) -> int:
        """How often the pool's key ring was changed; 0 while it is as in the key files."""
        return self._parts.key_rotation.version

    @property
    def seal_trouble(self) -> str:
        """Why an address that we tried does not let us join, in words; empty when nothing is known."""
        return self._state.operator_warnings.last_problem(self._state.now)

    @property
    def table_digest(self) -> int:
        """64 bits that are equal on members with equal tables."""
        return self._state.table.digest

    @property
    def counters(self) -> Mapping[str, int]:
        """Counts of datagrams and events since the start, by name."""
        state = self._state
        state.counters["received"], state.counters["sent"] = state.received, state.sent
        return state.counters

    @property
    def measurements(self) -> GossipMeasurements:
        """What it measured of its own gossip, kept up to date."""
        return self._state.measurements

    @property
    def table(self) -> MemberTable:
        """All rows held, to be read only."""
        return self._state.table

    @property
    def view(self) -> PoolView:
        """What we know, frozen. The same object until something visible changes; built on demand."""
        return self._view_builder.view()

    @property
    def doubts(self) -> int:
        """How often other members' callers said that our worker failed them. Grows by what is news."""
        return self._state.callers.doubts

    @property
    def view_version(self) -> object:
        """Equal for as long as :attr:`view` stays the same. Costs nothing."""
        return self._view_builder.view_version

    @property
    def policy_records(self) -> tuple[PolicyRecord, ...]:
        """The pool's policies as in the view: by service and kind."""
        return self._view_builder.policies()

    def details(self, now: float) -> dict[InstanceId, MemberDetail]:
        """Misses, monitors, last sign of life and round-trip time of each member, by instance."""
        monitored = self._failure_detector.monitored
        return member_details(self._state, monitored, self._parts.probes, self._view_builder, now + self._ahead)

    def addresses(self) -> list[Address]:
        """The addresses of present members, to use as seeds at the next start."""
        table = self._state.table
        rows = (table.get(member_id) for member_id in table.present_ids if member_id != self._state.me.member_id)
        return [row.address for row in rows if row is not None and row.address is not None]

    def inspect(self) -> NodeInspection:
        """A read-only look inside, for invariants and measurements."""
        return self._inspection

    # --- a step

    def _step_to(self, now: float) -> None:
        """Begin a step. Notice a pause of this process (a timer a period late), or a clock that went back.

        A pause is noticed once: until the timer is handled, deadlines may still be those of before the pause.
        """
        state = self._state
        now += self._ahead
        if now < state.now:
            self._ahead += state.now - now
            self._restart(state.now)
            return
        if now - (state.now if self._dispatch.resuming else self.deadline + self._ahead) > state.settings.period:
            self._restart(now)
        state.now = now

    def _end_step(self, effect: StepEffect | None = ANY) -> None:
        """Compute when to wake next.

        Lazy work (seeds, keys, the dead) is done with the next heartbeat, a period later at most, because at rest a
        wake-up costs more than the work. Nine in ten steps are a heartbeat, which can only move the deadlines of other
        parts later. If the failure detector's deadline comes first, the others are then not read: a step at rest
        touches little memory, which is what limits a process with a thousand nodes.
        """
        detector = self._failure_detector
        if self._state.table.touched:
            self._view_builder.note()
        if detector.reassignment_due:
            detector.reassign_monitors()
            effect = ANY
        if self._broadcast.queued:
            self._broadcast.flush()
            effect = ANY
        due = detector.deadline
        if effect is not HEARTBEAT or due > self._other_deadline:
            self._other_deadline = other = min([part.deadline for part in self._with_deadline])
            self._others_due = min(other, *[part.lazy_deadline for part in self._with_lazy_deadline])
            due = due if due < other else other
        self.deadline = (self._state.now if self._dispatch.waiting else due) - self._ahead

    def _restart(self, now: float) -> None:
        """We did not run for a while. Nothing that we counted or were about to send is valid."""
        state = self._state
        late = max(0.0, now - self._ahead - self.deadline)
        state.now = self._other_deadline = now
        self.deadline = now - self._ahead
        state.counters["pauses"] += 1
        state.record_event("paused", state.me.name, f"{state.me.name} was itself paused for about {late:.1f} s")
        self._dispatch.resuming = True
        state.outbox.clear()
        state.last_heard_anyone = now
        for part in reversed(self._in_order):
            part.restart()
