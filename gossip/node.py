"""The protocol core of one member: bytes and time in, bytes and conclusions out.

A :class:`Node` does no I/O, reads no clock and draws no randomness of its own. The real transport and the simulator
drive the very same object with the very same sealed bytes:

* :meth:`Node.receive_datagram` for each datagram, as soon as it is read;
* :meth:`Node.receive_refusal` for each datagram of ours that a kernel refused, before what can be read;
* :meth:`Node.handle_timer` when :attr:`Node.deadline` has come, after everything that can be read has been;
* :meth:`Node.datagrams_to_send` after either, to empty the outbox;
* :attr:`Node.view` and :meth:`Node.take_events` for what it concluded.

The way of a datagram is one-way: seal, wire, the part it concerns, the table, the changes. The parts are

============  =====================================================
state         who we are, what we hold, the outbox
spread        pushes and piggyback                      (broadcast.py)
votes         the ballots                                (votes.py)
audience      whether anybody hears us                (mute_detector.py)
isolation     whether we may judge                   (partition_guard.py)
changes       rows applied, and what follows         (table_changes.py)
eviction      suspicions, votes, deaths                   (eviction.py)
refutation    claims refuted, peers corrected           (refutation.py)
claims        what peers say, and whether to believe it (membership_updates.py)
pings         pings, acks, and by way of others          (probes.py)
detector      heartbeats and misses                   (failure_detector.py)
refusals      misses that a kernel tells of           (icmp_evidence.py)
naming        our own name                              (own_name.py)
namesakes     other lives of others' names              (name_conflicts.py)
departure     leaving                                   (leave.py)
joining       getting in, letting in                      (join.py)
sync          making two tables one                       (anti_entropy.py)
policies      what operators say of the pool          (policy_replication.py)
damping       probation for whoever flaps              (flap_damping.py)
rotation      changing the group keys                 (key_rotation.py)
housekeeping  the dead retried, old tombstones   (reaper.py)
reception     what each datagram sets off            (dispatch.py)
============  =====================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.detection.icmp_evidence import IcmpEvidence
from rumormill.gossip.detection.mute_detector import MuteDetector
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.dispatch import DatagramDispatch
from rumormill.gossip.dissemination.anti_entropy import AntiEntropy
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.dissemination.policy_replication import PolicyKey, PolicyReplication
from rumormill.gossip.lifecycle.death_claims import DeathClaims
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.lifecycle.flap_damping import FlapDamping
from rumormill.gossip.lifecycle.join import JoinProtocol
from rumormill.gossip.lifecycle.leave import LeaveProtocol
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.name_conflicts import NameConflicts
from rumormill.gossip.lifecycle.own_name import OwnName
from rumormill.gossip.lifecycle.reaper import Reaper
from rumormill.gossip.lifecycle.refutation import Refutation
from rumormill.gossip.lifecycle.table_changes import TableChanges
from rumormill.gossip.reporting.view_builder import ViewBuilder, member_details
from rumormill.gossip.security.credentials import Authority, Credential, MemberKeys
from rumormill.gossip.security.key_rotation import KeyAudit, KeyRotation
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.signature_verifier import MAX_CHECKS_PER_TURN
from rumormill.gossip.settings import ProtocolSettings
from rumormill.gossip.state import Identity, NodeState, Profile
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import PolicyRecord, PolicySchema
from rumormill.membership.record import Address, InstanceId
from rumormill.membership.table import MemberChange, MemberTable
from rumormill.membership.view import Connectivity, Event, MemberDetail, PoolView

INFINITE = float("inf")


class Node:
    """One member of the pool.

    ``now`` is in seconds on a clock that also counts suspended time (CLOCK_BOOTTIME on Linux). Where it falls back (a
    virtual machine put back to an earlier moment), the node was paused, and all it remembers keeps its age: inside, and
    in the stamps of heartbeats and events, time only stands still. ``rng`` makes protocol choices, ``token_bytes``
    makes keys and secrets. ``keyring`` None sends plaintext. With an ``authority`` only those whose names it issued are
    let in, and ``credential`` is what it issued to this one.
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        cluster: str,
        profile: Profile,
        keyring: KeyRing | None,
        authority: Authority | None = None,
        credential: Credential | None = None,
        rng: random.Random,
        token_bytes: Callable[[int], bytes],
        now: float,
        settings: ProtocolSettings | None = None,
        generation: int = 1,
        key_version: int = 0,
        policy_schema: PolicySchema,
        policy_key: PolicyKey | None = None,
        policies: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        keys = MemberKeys.generate(token_bytes, credential)
        identity = Identity(name, address, profile, generation, 1, False, keys, credential)
        self._state = state = NodeState(
            identity=identity,
            cluster=cluster,
            keyring=keyring,
            authority=authority,
            rng=rng,
            token_bytes=token_bytes,
            settings=settings or ProtocolSettings(),
            now=now,
        )
        self._make_parts(state)
        self._policy_replication = PolicyReplication(
            state, self._broadcast, policy_key, self._join, self._anti_entropy, policy_schema, gone=lambda: self._gone
        )
        self._policy_replication.restore(policies)
        self._key_rotation = KeyRotation(state, self._broadcast, keyring, key_version)
        self._dispatch = self._make_reception(state)
        self._view_builder = ViewBuilder(state)
        self._ahead = 0.0
        """Seconds by which our time is ahead of the caller's clock: as much as that has fallen back."""
        self._other_deadline = self._others_due = now
        self.deadline = now
        """When :meth:`handle_timer` wants to be called next, in seconds on the caller's clock."""

    def _make_parts(self, state: NodeState) -> None:
        self._votes = VoteBook(state)
        self._broadcast = Broadcast(state, self._votes)
        self._leave_protocol = LeaveProtocol(state, self._broadcast)
        self._probes = Probes(state, self._broadcast)
        self._partition_guard = PartitionGuard(state, MuteDetector(state, self._probes))
        self._name_conflicts = NameConflicts(state)
        death_claims = DeathClaims(state)
        self._table_changes = TableChanges(
            state,
            self._votes,
            self._broadcast,
            self._partition_guard,
            self._name_conflicts,
            death_claims,
            on_change=self._changed,
        )
        self._eviction = Eviction(
            state, self._votes, self._broadcast, self._partition_guard, death_claims, self._table_changes
        )
        self._updates = MembershipUpdates(
            state,
            self._table_changes,
            self._eviction,
            Refutation(state, self._broadcast, self._partition_guard),
            self._name_conflicts,
            on_clone=self._cloned,
            on_rival=self._rivalled,
        )
        self._failure_detector = FailureDetector(
            state, self._votes, self._eviction, self._partition_guard, self._probes
        )
        self._icmp_evidence = IcmpEvidence(state, self._probes, self._failure_detector, self._partition_guard)
        self._own_name = OwnName(state, self._broadcast, self._leave_protocol, self._probes, self._rewritten)
        self._flap_damping = FlapDamping(state, self._broadcast, self._rewritten)
        self._join = JoinProtocol(state, self._updates, self._own_name, self._flap_damping)
        self._anti_entropy = AntiEntropy(state, self._broadcast, self._probes)
        self._reaper = Reaper(state, self._votes, self._probes, self._own_name, self._flap_damping)

    def _make_reception(self, state: NodeState) -> DatagramDispatch:
        return DatagramDispatch(
            state=state,
            claims=self._updates,
            isolation=self._partition_guard,
            pings=self._probes,
            detector=self._failure_detector,
            refusals=self._icmp_evidence,
            naming=self._own_name,
            joining=self._join,
            sync=self._anti_entropy,
            policies=self._policy_replication,
            rotation=self._key_rotation,
            on_reunited=self._reunited,
        )

    # --- verbs

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        """Say at which addresses others may be found (resolved seeds, a snapshot); replaces the former ones."""
        self._join.set_seeds(addresses)
        self._end_step()

    def receive_datagram(self, data: bytes, source: Address, now: float, arrived: float | None = None) -> None:
        """Take in one datagram. No bytes make it raise: what cannot be used is counted and dropped.

        ``arrived`` is when it came in, at ``now`` or before: what it waited for us is not the network's lateness.
        """
        if self._state.stopped is not None or self._dispatch.ignores(data, now + self._ahead):
            return
        self._step_to(now)
        self._state.arrived = self._state.now if arrived is None else arrived + self._ahead
        if self._dispatch.datagram_untrusted(data, source):
            self._end_step(only_life=self._dispatch.only_life)

    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None:
        """A kernel at ``address`` said that no process is there for what it quotes of us. Never raises."""
        if self._quiet:
            return
        self._step_to(now)
        self._icmp_evidence.on_refusal_untrusted(datagram, address)
        self._end_step()

    def handle_timer(self, now: float) -> None:
        """Do what is due. To be called after each draining of the socket, and once :attr:`deadline` has come.

        Costs nothing before then.
        """
        state, reception = self._state, self._dispatch
        state.signatures.checks_left = MAX_CHECKS_PER_TURN
        due = state.now > now + self._ahead or now >= self.deadline or reception.waking
        if self._state.stopped is not None or not due:
            return
        self._step_to(now)
        if state.now < self._others_due and not (
            reception.waking or reception.waiting or self._name_conflicts.claimants
        ):
            self._end_step(only_life=self._failure_detector.tick())
            return
        reception.waking = False
        reception.go_on()
        if state.isolated and self._partition_guard.may_evict_alone:
            self._failure_detector.reassignment_due = True
        before = state.connectivity
        self._partition_guard.tick()
        if state.connectivity is not before:
            self._isolation_turned()
        (self._leave_protocol if state.leaving else self._own_name).tick()
        self._failure_detector.tick()
        self._icmp_evidence.tick()
        self._probes.tick()
        self._eviction.evict_deferred()
        if self._name_conflicts.claimants:
            self._updates.admit_claimants()
        self._join.tick()
        self._anti_entropy.tick()
        self._key_rotation.tick()
        self._flap_damping.tick()
        if state.now >= self._reaper.deadline:
            self._reaper.tick()
        self._end_step()

    def datagrams_to_send(self) -> list[tuple[Address, bytes]]:
        """Empty the outbox."""
        outbox = self._state.outbox
        if outbox:
            self._state.outbox = []
            self._state.sent += len(outbox)
        return outbox

    def take_events(self) -> list[Event]:
        """What happened since the last call, oldest first; at most 1000 are kept."""
        events = self._state.events
        if events:
            self._state.events = []
        return events

    def update(self, profile: Profile, now: float) -> None:
        """Say something new of our worker. A change of readiness is pushed wide, anything else to three."""
        state = self._state
        if self._gone or profile == state.identity.profile:
            return
        self._step_to(now)
        wide = profile.readiness != state.identity.profile.readiness
        state.set_profile(profile)
        self._rewritten()
        self._broadcast.announce(state.me.member_id, wide=wide)
        self._end_step()

    def write_policy(self, service: str, body: bytes, at: int, now: float) -> PolicyRecord:
        """Make this encoded body the pool's policy. Raises PolicyRefused.

        ``at`` is wall time in milliseconds, for display.
        """
        if not self._quiet:
            self._step_to(now)
        record = self._policy_replication.write(service, body, at)
        self._end_step()
        return record

    def worker_failed(self, now: float) -> None:
        """The worker beside us was ready and has ended, refused or answered wrongly. One that keeps failing waits;
        one that is silent to its checks may be busy, and is not to be told of here."""
        if not self._gone:
            self._step_to(now)
            self._flap_damping.worker_failed()
            self._end_step()

    def leave(self, now: float) -> None:
        """Say goodbye. Keep driving the node until :attr:`has_left`."""
        if self._gone:
            return
        self._step_to(now)
        self._leave_protocol.begin()
        self._end_step()

    def change_keys(self, ring: KeyRing, now: float) -> None:
        """Make this key ring everyone's, over any that was before. Promote or remove a key only once
        :meth:`audit_keys` has settled, or whoever lags is cut off until it is taught. Does nothing in plaintext."""
        if self._gone or self._key_rotation.ring is None:
            return
        self._step_to(now)
        self._key_rotation.change(ring)
        self._end_step()

    def audit_keys(self, now: float) -> KeyAudit:
        """Ask every present member which key ring it holds, or go on asking; what has been heard so far."""
        self._step_to(now)
        audit = self._key_rotation.audit()
        self._end_step()
        return audit

    # --- conclusions

    @property
    def has_left(self) -> bool:
        """Whether our departure has been said for long enough."""
        return self._leave_protocol.finished

    @property
    def stopped(self) -> str | None:
        """Why this node gave up (its name is taken, and by whom); it is silent from then on."""
        return self._state.stopped

    @property
    def joined(self) -> bool:
        """Whether we hold anybody else's row."""
        return self._join.joined

    @property
    def connectivity(self) -> Connectivity:
        """How we stand to the others: unless connected, what we say about them may be old."""
        return self._state.connectivity

    @property
    def is_connected(self) -> bool:
        """Whether we are connected."""
        return not self._state.isolated

    @property
    def generation(self) -> int:
        return self._state.identity.generation

    @property
    def instance(self) -> InstanceId:
        return self._state.me.instance

    @property
    def probation(self) -> float:
        """Seconds for which we still take no work because we flapped; 0 for none."""
        return self._flap_damping.remaining

    @property
    def policies(self) -> list[tuple[bytes, bytes]]:
        """All policies, encoded, with their signatures: worth keeping for the next start."""
        return [(policy.encoded, policy.signature) for policy in self._state.table.policies]

    def policy_history(self) -> list[PolicyRecord]:
        """The last policies we learned of, oldest first."""
        return list(self._policy_replication.history)

    @property
    def keyring(self) -> KeyRing | None:
        """The keys accepted now, the primary first; None in plaintext."""
        return self._key_rotation.ring

    @property
    def key_version(self) -> int:
        """How often the pool's key ring has been changed; 0 while it is as the key files had it."""
        return self._key_rotation.version

    @property
    def seal_trouble(self) -> str:
        """Why an address we tried does not let us in, as far as we know, in words; empty when nothing is known."""
        return self._state.operator_warnings.last_problem(self._state.now)

    @property
    def table_digest(self) -> int:
        """64 bits that are equal on members with equal knowledge."""
        return self._state.table.digest

    @property
    def counters(self) -> Mapping[str, int]:
        """Datagrams and happenings by name, since the start."""
        state = self._state
        state.counters["received"], state.counters["sent"] = state.received, state.sent
        return state.counters

    @property
    def table(self) -> MemberTable:
        """All rows held, to be read only: what the lab checks its laws against."""
        return self._state.table

    @property
    def view(self) -> PoolView:
        """What we hold, frozen; the same object until something visible changes. Made when it is asked for."""
        return self._view_builder.view()

    @property
    def view_version(self) -> object:
        """Equal for as long as :attr:`view` would be the same, and costs nothing."""
        return self._view_builder.view_version

    @property
    def policy_records(self) -> tuple[PolicyRecord, ...]:
        """The pool's policies as the view has them: by service and kind."""
        return self._view_builder.policies()

    def details(self, now: float) -> dict[InstanceId, MemberDetail]:
        """Misses, monitors, last heard and round-trip time of each member, by instance."""
        return member_details(
            self._state, self._failure_detector.monitored, self._probes, self._view_builder, now + self._ahead
        )

    def addresses(self) -> list[Address]:
        """Where present members live: an address book for the next start."""
        table = self._state.table
        rows = (table.get(member_id) for member_id in table.present_ids if member_id != self._state.me.member_id)
        return [row.address for row in rows if row is not None and row.address is not None]

    # --- a step

    @property
    def _gone(self) -> bool:
        return self._quiet or self._state.leaving

    @property
    def _quiet(self) -> bool:
        return self._state.stopped is not None

    def _step_to(self, now: float) -> None:
        """Begin a step; notice that we were paused (a timer a period late), or that the clock fell back.

        Noticed once: until the timer has been handled, deadlines may still be those of before the pause.
        """
        state = self._state
        now += self._ahead
        if now < state.now:
            self._ahead += state.now - now
            self._paused(state.now)
            return
        if now - (state.now if self._dispatch.waking else self.deadline + self._ahead) > state.settings.period:
            self._paused(now)
        state.now = now

    def _end_step(self, *, only_life: bool = False) -> None:
        """Put down when we must wake. What can wait (looking after seeds, keys, the dead) goes with the next
        heartbeat, a period later at most: at rest each waking costs more than what is done in it.

        ``only_life``: the step was a heartbeat, of ours or one that told us nothing, as nine in ten are. Whatever
        deadline it moves but the detector's, it moves away; so where that one comes first, the others are not looked
        at: a step at rest touches little memory, which is what a thousand of us in one process wait for."""
        detector, spread = self._failure_detector, self._broadcast
        if self._state.table.touched:
            self._view_builder.note()
        if detector.reassignment_due:
            detector.reassign_monitors()
            only_life = False
        if spread.queued:
            spread.flush()
            only_life = False
        due = detector.deadline
        if not only_life or due > self._other_deadline:
            self._other_deadline = other = self._next_of_others()
            self._others_due = min(other, self._next_chore())
            due = due if due < other else other
        self.deadline = (self._state.now if self._dispatch.waiting else due) - self._ahead

    def _next_of_others(self) -> float:
        """The earliest deadline of all parts but the detector."""
        spread = self._broadcast
        return min(
            spread.deadline if spread.queued else INFINITE,
            self._probes.deadline,
            self._icmp_evidence.deadline,
            self._partition_guard.deadline,
            self._join.deadline,
            self._anti_entropy.deadline,
            self._flap_damping.deadline,
            (self._leave_protocol if self._state.leaving else self._own_name).deadline,
        )

    def _next_chore(self) -> float:
        """When there is anything to do that goes with a heartbeat; isolated, at each."""
        if self._state.isolated:
            return -INFINITE
        return min(self._join.next_try, self._key_rotation.deadline, self._reaper.deadline)

    def _paused(self, now: float) -> None:
        """We did not run for a while: nothing we counted or were about to say can be trusted."""
        state = self._state
        late = max(0.0, now - self._ahead - self.deadline)
        state.now = self._other_deadline = now
        self.deadline = now - self._ahead
        state.counters["pauses"] += 1
        state.record_event("paused", state.me.name, f"{state.me.name} was itself paused for about {late:.1f} s")
        self._dispatch.waking = True
        state.outbox.clear()
        state.last_heard_anyone = now
        self._leave_protocol.restart()
        self._votes.clear_all()
        self._partition_guard.reset()
        self._broadcast.restart()
        self._probes.restart()
        self._icmp_evidence.restart()
        self._anti_entropy.restart()
        self._join.restart()
        self._failure_detector.restart()
        self._reaper.restart()

    def _isolation_turned(self) -> None:
        """We have come to be isolated, in another way than before, or not any more."""
        if not self._state.isolated:
            self._reunited()
        elif self._partition_guard.inbound_cut:
            self._eviction.suspect_everyone()
        self._failure_detector.reassignment_due = True

    def _reunited(self) -> None:
        """Our isolation is over: like waking, and the suspicions we never spread are withdrawn."""
        state = self._state
        self._votes.clear_all()
        state.last_heard_anyone = state.now
        for member_id in list(self._partition_guard.local_suspicions):
            missed_since = self._partition_guard.missing_since(member_id)
            if self._table_changes.withdraw_suspicion(member_id):
                self._partition_guard.on_suspicion_withdrawn(member_id, missed_since)
        self._partition_guard.local_suspicions.clear()
        self._failure_detector.restart()
        self._failure_detector.reassignment_due = True

    def _changed(self, change: MemberChange) -> None:
        """A row changed: whoever depends on the table hears of it."""
        state, after = self._state, change.after
        self._failure_detector.reassignment_due = True
        self._anti_entropy.table_changed()
        self._flap_damping.note_change(change)
        if not self._join.joined and len(state.table) > 1:
            self._join.joined = True
            state.last_heard_anyone = state.now
            self._anti_entropy.begin_bootstrap()
        if change.before is not None and not change.same_instance:
            self._probes.forget(change.before.member_id)
        if after is None:
            return
        if after.name == state.me.name:
            if not state.leaving:
                self._own_name.reconcile()
        elif after.pending and (incumbent := state.table.settled.get(after.name)) and incumbent.present:
            self._failure_detector.ping_if_monitored(incumbent)

    def _cloned(self) -> None:
        """Somebody else goes by our instance: a copy of this process or machine."""
        self._state.counters["clones"] += 1
        self._own_name.rekey()

    def _rivalled(self, rival: MemberState, witness: MemberState | None) -> bool:
        """Somebody holds another life of our name: whether we give way."""
        return self._own_name.should_yield(rival, witness)

    def _rewritten(self) -> None:
        self._failure_detector.reassignment_due = True
        self._anti_entropy.table_changed()
