"""Routes a datagram: first a sign of life of its sender, then each message to its part.

A member's messages go to the parts by type. From a stranger only the messages of a join are accepted, and
:class:`UnknownSender`. A datagram that we cannot open, because we lack its sender's row, is answered with
:class:`UnknownSender`. A datagram for another instance is either an ack that we relay, or was meant for an earlier
process at our address.

Checking signatures takes time. After a limited number of checks, further messages with signatures wait, in their order,
until the timers were handled.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from rumormill.gossip.part import ANY, HEARTBEAT, NOTHING, StepEffect
from rumormill.gossip.parts import Parts
from rumormill.gossip.security.rate_limits import TokenBucket
from rumormill.gossip.security.seal import HEADER, STRANGER, UNKNOWN_RECEIVER, DecryptError
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import (
    JOINING,
    KIND_BY_TYPE,
    LOAD_KIND,
    Ack,
    Alive,
    AnyMessage,
    Challenge,
    Dead,
    Heartbeat,
    Hello,
    IndirectAck,
    Join,
    KeyRingReport,
    KeyRingUpdate,
    Leave,
    LeaveAck,
    NameInUse,
    Payload,
    Ping,
    PingRequest,
    PolicyMessage,
    Suspect,
    SyncBusy,
    SyncDigest,
    SyncOffer,
    SyncRequest,
    Tombstone,
    UndecodablePayload,
    UnknownSender,
    VoteMessage,
    Welcome,
    decode_untrusted,
)
from rumormill.membership.load import CallerCounts
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, Liveness, MemberId

SIGNED = frozenset((Alive, Leave, VoteMessage, Dead, Tombstone, Hello, Welcome))
"""Messages with signatures to check."""
MAX_WAITING = 1024
ALIVE = Liveness.ALIVE
"""A module constant, because an enum attribute lookup costs as much as a call in Python 3.11."""
NOISE_GAP = 0.05
"""Seconds between two useless datagrams that are processed all the same, so that our operator may be warned."""


class DatagramDispatch:
    """Opens and decodes datagrams, and routes their messages."""

    __slots__ = (
        "_anti_entropy",
        "_failure_detector",
        "_handle",
        "_hello_limit",
        "_icmp_evidence",
        "_join",
        "_join_limit",
        "_key_rotation",
        "_leave_protocol",
        "_misbehaving",
        "_noise_at",
        "_own_name",
        "_partition_guard",
        "_ping_limit",
        "_policy_replication",
        "_probes",
        "_row_limit",
        "_state",
        "_sync_limit",
        "_updates",
        "resuming",
        "waiting",
    )

    def __init__(self, state: NodeState, parts: Parts) -> None:
        self._state = state
        self._updates = parts.updates
        self._partition_guard = parts.partition_guard
        self._probes = parts.probes
        self._failure_detector = parts.failure_detector
        self._icmp_evidence = parts.icmp_evidence
        self._own_name = parts.own_name
        self._leave_protocol = parts.leave_protocol
        self._join = parts.join
        self._anti_entropy = parts.anti_entropy
        self._policy_replication = parts.policy_replication
        self._key_rotation = parts.key_rotation
        self._join_limit, self._hello_limit = TokenBucket(100, 2000), TokenBucket(100, 2000)
        self._ping_limit, self._sync_limit, self._row_limit = (
            TokenBucket(50, 2500),
            TokenBucket(10, 250),
            TokenBucket(100, 2000),
        )
        """Limits per member: direct and relayed pings; sync openings; requests for rows."""
        self.build_handlers()
        self._misbehaving = state.signatures.misbehaving
        self.waiting: deque[tuple[AnyMessage, MemberId, Address]] = deque()
        """Messages whose signatures are checked once the timers were handled."""
        self._noise_at = -math.inf
        self.resuming = False
        """Whether we are reading what arrived during a pause of this process."""

    def drops_early(self, data: bytes, now: float) -> bool:
        """Whether to drop a datagram at once, as with most of a flood.

        It is either not for this cluster (one now and then is processed all the same), or it claims to be from a
        misbehaving peer, one that passed on bad signatures, and exceeds that peer's rate limit.
        """
        state, seal = self._state, self._state.seal
        if data[2:10] != seal.label or data[0] not in seal.accepted_kinds:
            if now - self._noise_at >= NOISE_GAP:
                self._noise_at = now
                return False
            state.counters["dropped_noise"] += 1
        elif not self._misbehaving or state.signatures.accepts_datagram_from(MemberId(data[10:18]), now):
            return False
        else:
            state.counters["dropped_distrusted"] += 1
        state.received += 1
        return True

    def receive_untrusted(self, data: bytes, source: Address) -> StepEffect:
        """Process one datagram. A useless one is counted and dropped, with the effect NOTHING.

        The effect is HEARTBEAT for a heartbeat without news, from a member whose table equals ours.
        """
        state = self._state
        state.received += 1
        try:
            return self._open(data, source)
        except DecryptError as refusal:
            state.counters["dropped_" + refusal.reason] += 1
            self._key_rotation.handle_undecryptable(refusal.reason, data, source)
        except UndecodablePayload:
            state.counters["dropped_payload"] += 1
        return NOTHING

    def process_waiting(self) -> None:
        """Process messages whose signatures had to wait, as far as the limit allows."""
        state, waiting = self._state, self.waiting
        while waiting and state.signatures.checks_left > 0:
            message, sender, source = waiting.popleft()
            if isinstance(message, JOINING):
                self._process_join_message(message, sender, source)
            elif (row := state.table.get(sender)) is not None:
                self._handle[type(message)](message, row, source)

    def _open(self, data: bytes, source: Address) -> StepEffect:
        """Raises DecryptError and UndecodablePayload."""
        state, seal = self._state, self._state.seal
        sender, receiver = seal.claimed_ids(data)
        if receiver != seal.member_id and receiver != UNKNOWN_RECEIVER:
            self._handle_misdirected(data, sender, receiver, source)
        elif data[0] == STRANGER:
            payload = decode_untrusted(seal.open_from_stranger(data, sender))
            self._count(payload, data)
            self._route_from_stranger(payload, data, sender, source)
        elif sender == seal.member_id:
            state.counters["dropped_own"] += 1
        elif sender not in seal.peers and not state.has_keys_of(sender):
            self._open_unknown(data, sender, source)
        else:
            payload = decode_untrusted(seal.open(data, sender))
            self._count(payload, data)
            return self._route(payload, data, sender, source)
        return ANY

    def _count(self, payload: Payload, data: bytes) -> None:
        kind = KIND_BY_TYPE[type(payload.messages[0])] if payload.messages else LOAD_KIND
        self._state.measurements.received.count(kind, len(data))

    def _open_unknown(self, data: bytes, sender: MemberId, source: Address) -> None:
        """The sender's keys are not known. In plaintext the datagram may still be part of a join."""
        if self._state.seal.keyring is None:
            payload = decode_untrusted(data[HEADER.size :])
            if any(isinstance(message, JOINING) for message in payload.messages):
                self._route_from_stranger(payload, data, sender, source)
                return
        self._state.counters["dropped_stranger"] += 1
        with self._key_rotation.replying_under(data[1], None):
            self._join.send_unknown_sender(data, sender, source)

    def _handle_misdirected(self, data: bytes, sender: MemberId, receiver: MemberId, source: Address) -> None:
        """For another instance: an ack to relay, or meant for an earlier process at our address."""
        if self._probes.relay_ack(sender, receiver, data):
            return
        self._state.counters["dropped_receiver"] += 1
        if not self._state.seal.is_from_stranger(data):
            with self._key_rotation.replying_under(data[1], None):
                self._join.send_unknown_sender(data, sender, source)

    def _route_from_stranger(self, payload: Payload, data: bytes, sender: MemberId, source: Address) -> None:
        """From a host that holds the group key and may not know us."""
        with self._key_rotation.replying_under(data[1], self._state.table.get(sender)):
            for message in payload.messages:
                if isinstance(message, JOINING):
                    self._handle_join_message(message, sender, source)
                else:
                    self._state.counters["dropped_unsealed"] += 1

    def _route(self, payload: Payload, data: bytes, sender: MemberId, source: Address) -> StepEffect:
        state = self._state
        row = state.table.get(sender)
        if row is None:
            self._join.send_unknown_sender(data, sender, source)
            return ANY
        if data[1] == state.seal.key_id:
            return self._route_from_member(payload, row, source)
        with self._key_rotation.replying_under(data[1], row):
            return self._route_from_member(payload, row, source)

    def _route_from_member(self, payload: Payload, row: MemberState, source: Address) -> StepEffect:
        state, sender, messages = self._state, row.member_id, payload.messages
        effect = ANY
        beat = self._note_sign_of_life(payload, row)
        if payload.load is not None:
            state.loads.hear(sender, payload.load, state.now)
        if payload.under_way is not None:
            counts = CallerCounts(payload.under_way, payload.finished or 0, payload.doubts or 0)
            state.callers.hear(sender, counts, state.now)
        for message in messages:
            kind = type(message)
            if kind is Heartbeat:
                continue
            if kind not in SIGNED or not self._must_wait(message, sender, source):
                self._handle[kind](message, state.table.get(sender) or row, source)
        if beat is not None:
            tables_equal = self._anti_entropy.compare_digest(row, beat.digest)  # after the updates in the same datagram
            if tables_equal and len(messages) == 1:
                effect = HEARTBEAT
        elif not messages:
            effect = HEARTBEAT
        if effect is ANY or row.liveness is not ALIVE or row.pending or payload.incarnation > row.incarnation:
            self._check_sender(payload, sender)
        return effect

    def _must_wait(self, message: AnyMessage, sender: MemberId, source: Address) -> bool:
        """Whether a message with signatures must wait, or was dropped because too many wait."""
        if not self.waiting and self._state.signatures.checks_left > 0:
            return False
        if len(self.waiting) >= MAX_WAITING:
            self._state.counters["dropped_signed"] += 1
        else:
            self.waiting.append((message, sender, source))
        return True

    def _note_sign_of_life(self, payload: Payload, row: MemberState) -> Heartbeat | None:
        """Any authentic datagram except a stale heartbeat is a sign of life. Returns a heartbeat that is not stale."""
        state = self._state
        beat = None
        for message in payload.messages:
            if type(message) is Heartbeat:
                beat = message
                break
        if beat is None:
            self._failure_detector.on_sign_of_life(row.member_id, state.now)
        elif not self._failure_detector.on_heartbeat(row, beat):
            state.counters["stale_heartbeats"] += 1
            return None
        state.last_heard_anyone = state.now
        if self._partition_guard.on_sign_of_life(row.member_id):
            self._state.effects.connectivity_restored()
        elif self._partition_guard.outbound_cut and row.member_id in self._partition_guard.local_suspicions:
            self._updates.withdraw_suspicion(row.member_id)
        return beat

    def _check_sender(self, payload: Payload, sender: MemberId) -> None:
        """Ask a sender whose record is later than ours. Tell a sender that we hold suspect or dead."""
        row = self._state.table.get(sender)
        if row is None:
            return
        self._updates.check_sender(row, payload.incarnation)
        if row.pending:
            self._own_name.warn_if_rival(row)

    def _handle_join_message(self, message: AnyMessage, sender: MemberId, source: Address) -> None:
        if self._state.leaving:
            return  # a member that leaves lets nobody join, and does not join
        if type(message) not in SIGNED or not self._must_wait(message, sender, source):
            self._process_join_message(message, sender, source)

    def _process_join_message(self, message: AnyMessage, sender: MemberId, source: Address) -> None:
        match message:
            case Join():
                if self._within_limit(self._join_limit, source[0]):
                    self._join.handle_join(message, sender, source)
            case Challenge():
                self._join.handle_challenge(message, sender, source)
            case Hello() if self._within_limit(self._hello_limit, source[0]):
                self._join.handle_hello_untrusted(message, sender, source)
                if (row := self._state.table.get(sender)) is not None:
                    self._key_rotation.send_ring(row)
            case Welcome():
                self._join.handle_welcome(message, source)
            case UnknownSender():
                asked = self._join.handle_unknown_sender(message, source)
                if asked is not None and asked.member_id != sender:
                    self._failure_detector.on_address_reused(asked.member_id)

    def build_handlers(self) -> None:
        """Make the table of what handles a member's message, by type. Heartbeats are handled before."""
        claims, sync = self._updates, self._anti_entropy
        self._handle: dict[type, Callable[[Any, MemberState, Address], object]] = {
            Ping: self._on_ping,
            Ack: self._on_ack,
            PingRequest: self._on_ping_request,
            IndirectAck: lambda heard, _sender, _source: self._failure_detector.on_indirect_ack(heard),
            Alive: self._on_alive,
            PolicyMessage: self._on_policy,
            Suspect: lambda claim, sender, _: claims.handle_suspect(claim, sender),
            VoteMessage: self._on_vote,
            Dead: self._on_dead,
            Leave: lambda claim, sender, _: claims.handle_leave(claim, sender),
            LeaveAck: lambda ack, sender, _: self._leave_protocol.on_ack(ack, sender),
            Tombstone: lambda stone, sender, _: claims.handle_tombstone(stone, sender),
            NameInUse: lambda taken, sender, _: self._own_name.handle_name_in_use(taken, sender),
            SyncDigest: self._on_sync_digest,
            SyncOffer: lambda have, sender, _: sync.handle_offer(have, sender),
            SyncRequest: self._on_sync_request,
            SyncBusy: lambda _message, sender, _: sync.handle_busy(sender),
            KeyRingUpdate: lambda message, sender, _: self._key_rotation.handle_ring_update(message, sender),
            KeyRingReport: lambda held, sender, _: self._key_rotation.handle_ring_report(held, sender),
            **dict.fromkeys(
                JOINING, lambda step, sender, source: self._handle_join_message(step, sender.member_id, source)
            ),
        }

    def _within_limit(self, rate: TokenBucket, source: Hashable) -> bool:
        """Whether a source is within its rate limit."""
        if rate.allows(source, self._state.now):
            return True
        self._state.counters["dropped_rate"] += 1
        return False

    def _on_ping(self, ping: Ping, sender: MemberState, source: Address) -> None:
        if self._within_limit(self._ping_limit, sender.member_id):
            self._probes.on_ping(ping, sender, source)

    def _on_ack(self, ack: Ack, sender: MemberState, _source: Address) -> None:
        if self._probes.on_ack(ack, sender) and self._partition_guard.on_heard_by_peer(sender.member_id):
            self._state.effects.connectivity_restored()

    def _on_ping_request(self, request: PingRequest, sender: MemberState, _source: Address) -> None:
        if self._within_limit(self._ping_limit, sender.member_id):
            self._probes.on_ping_request(request, sender)

    def _on_sync_digest(self, opening: SyncDigest, sender: MemberState, _source: Address) -> None:
        if self._within_limit(self._sync_limit, sender.member_id):
            self._anti_entropy.handle_digest(opening, sender)

    def _on_sync_request(self, want: SyncRequest, sender: MemberState, _source: Address) -> None:
        if self._within_limit(self._row_limit, sender.member_id):
            self._anti_entropy.handle_request(want, sender)

    def _on_alive(self, message: Alive, sender: MemberState, _source: Address) -> None:
        asked_for = self._anti_entropy.expects_rows_from(sender)
        row = self._updates.handle_record_untrusted(
            bytes(message.record), message.signature, sender.member_id, sender, quietly=asked_for
        )
        if row is not None:
            self._anti_entropy.note_received(row.member_id, sender)

    def _on_policy(self, message: PolicyMessage, sender: MemberState, _source: Address) -> None:
        asked_for = self._anti_entropy.expects_rows_from(sender)
        if member_id := self._policy_replication.handle_untrusted(message, sender, quietly=asked_for):
            self._anti_entropy.note_received(member_id, sender)

    def _on_vote(self, vote: VoteMessage, sender: MemberState, _source: Address) -> None:
        """A vote that arrived during a pause of this process is not valid."""
        if not self.resuming:
            self._updates.handle_vote(vote, sender)
            self._icmp_evidence.on_vote(vote.subject)

    def _on_dead(self, death: Dead, sender: MemberState, _source: Address) -> None:
        self._updates.handle_death(death, sender, stale=self.resuming)
        self._icmp_evidence.on_death_claim(death.subject)
