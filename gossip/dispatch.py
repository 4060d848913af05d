"""What a datagram sets off: a sign of life first, then each message to the part it concerns.

A member's messages go to the parts by their type. Between strangers only the steps of a join count, and *who*; what we
cannot open for want of its sender's row is answered with *who*. What is addressed to another instance is an ack that we
hand back, or meant for whoever lived at our address before us.

Messages that carry signatures wait, in their order, once as many have been checked as may be at a stretch; the timers
come first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.detection.icmp_evidence import IcmpEvidence
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.dissemination.anti_entropy import AntiEntropy
from rumormill.gossip.dissemination.policy_replication import PolicyReplication
from rumormill.gossip.lifecycle.join import JoinProtocol
from rumormill.gossip.lifecycle.membership_updates import MembershipUpdates
from rumormill.gossip.lifecycle.own_name import OwnName
from rumormill.gossip.security.key_rotation import KeyRotation
from rumormill.gossip.security.rate_limits import TokenBucket
from rumormill.gossip.security.seal import HEADER, STRANGER, UNKNOWN_RECEIVER, DecryptError
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import (
    JOINING,
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
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, Liveness, MemberId

SIGNED = frozenset((Alive, Leave, VoteMessage, Dead, Tombstone, Hello, Welcome))
"""Messages that have signatures to be checked."""
MAX_WAITING = 1024
ALIVE = Liveness.ALIVE
"""To look a member of an enum up costs as much as a call, in Python 3.11."""
NOISE_GAP = 0.05
"""Seconds between two datagrams of no use here that are looked at all the same: our operator may want to know."""


class DatagramDispatch:
    """Opens, decodes and hands on what arrives. ``waking`` while we drain what came during a pause of our own."""

    __slots__ = (
        "_anti_entropy",
        "_asked",
        "_failure_detector",
        "_handle",
        "_hellos",
        "_icmp_evidence",
        "_join",
        "_joins",
        "_key_rotation",
        "_liars",
        "_noise_at",
        "_own_name",
        "_partition_guard",
        "_policy_replication",
        "_probes",
        "_reunited",
        "_state",
        "_syncs",
        "_updates",
        "_wants",
        "only_life",
        "waiting",
        "waking",
    )

    def __init__(
        self,
        *,
        state: NodeState,
        claims: MembershipUpdates,
        isolation: PartitionGuard,
        pings: Probes,
        detector: FailureDetector,
        refusals: IcmpEvidence,
        naming: OwnName,
        joining: JoinProtocol,
        sync: AntiEntropy,
        policies: PolicyReplication,
        rotation: KeyRotation,
        on_reunited: Callable[[], None],
    ) -> None:
        self._state = state
        self._updates = claims
        self._partition_guard = isolation
        self._probes = pings
        self._failure_detector = detector
        self._icmp_evidence = refusals
        self._own_name = naming
        self._join = joining
        self._anti_entropy = sync
        self._policy_replication = policies
        self._key_rotation = rotation
        self._reunited = on_reunited
        self._joins, self._hellos = TokenBucket(100, 2000), TokenBucket(100, 2000)
        self._asked, self._syncs, self._wants = TokenBucket(50, 2500), TokenBucket(10, 250), TokenBucket(100, 2000)
        """Pings and pings by way of us; openings of a sync; rows asked for."""
        self._handle = self._handlers()
        self._liars = state.signatures.misbehaving
        self.waiting: deque[tuple[AnyMessage, MemberId, Address]] = deque()
        """What waits for its signatures to be checked: as soon as the timers have been served."""
        self._noise_at = -math.inf
        self.waking = False
        self.only_life = False
        """Whether the latest datagram was a heartbeat of somebody who holds what we hold: a sign of life, no news."""

    def ignores(self, data: bytes, now: float) -> bool:
        """Whether a datagram is dropped before anything is done about it: the bulk of a flood.

        It is nothing for this pool (also no notice, but for one now and then), or it comes, as it says, from a member
        who passed on bad signatures, and there is too much of that.
        """
        state, seal = self._state, self._state.seal
        if data[2:10] != seal.label or data[0] not in seal.accepted_kinds:
            if now - self._noise_at >= NOISE_GAP:
                self._noise_at = now
                return False
            state.counters["dropped_noise"] += 1
        elif not self._liars or state.signatures.accepts_datagram_from(MemberId(data[10:18]), now):
            return False
        else:
            state.counters["dropped_distrusted"] += 1
        state.received += 1
        return True

    def datagram_untrusted(self, data: bytes, source: Address) -> bool:
        """Take in one datagram; what cannot be used is counted and dropped, and changes nothing here: False then."""
        state = self._state
        state.received += 1
        self.only_life = False
        try:
            self._take_in(data, source)
        except DecryptError as refusal:
            state.counters["dropped_" + refusal.reason] += 1
            self._key_rotation.handle_undecryptable(refusal.reason, data, source)
        except UndecodablePayload:
            state.counters["dropped_payload"] += 1
        else:
            return True
        return False

    def go_on(self) -> None:
        """A new stretch: hear what had to wait for it."""
        state, waiting = self._state, self.waiting
        while waiting and state.signatures.checks_left > 0:
            message, sender, source = waiting.popleft()
            if isinstance(message, JOINING):
                self._step_of_join(message, sender, source)
            elif (row := state.table.get(sender)) is not None:
                self._handle[type(message)](message, row, source)

    def _take_in(self, data: bytes, source: Address) -> None:
        """Raises Unopened and UndecodablePayload."""
        state, seal = self._state, self._state.seal
        sender, receiver = seal.claimed_ids(data)
        if receiver != seal.member_id and receiver != UNKNOWN_RECEIVER:
            self._misdirected(data, sender, receiver, source)
        elif data[0] == STRANGER:
            self._hear_stranger(decode_untrusted(seal.open_from_stranger(data, sender)), data, sender, source)
        elif sender == seal.member_id:
            state.counters["dropped_own"] += 1
        elif sender not in seal.peers and not state.has_keys_of(sender):
            self._open_unknown(data, sender, source)
        else:
            self._hear(decode_untrusted(seal.open(data, sender)), data, sender, source)

    def _open_unknown(self, data: bytes, sender: MemberId, source: Address) -> None:
        """From somebody whose keys we lack. Unsealed, it may still be a step of a join."""
        if self._state.seal.keyring is None:
            payload = decode_untrusted(data[HEADER.size :])
            if any(isinstance(message, JOINING) for message in payload.messages):
                self._hear_stranger(payload, data, sender, source)
                return
        self._state.counters["dropped_stranger"] += 1
        with self._key_rotation.replying_under(data[1], None):
            self._join.send_unknown_sender(data, sender, source)

    def _misdirected(self, data: bytes, sender: MemberId, receiver: MemberId, source: Address) -> None:
        """For another instance: an ack we hand back, or meant for whoever lived here before us."""
        if self._probes.relay_ack(sender, receiver, data):
            return
        self._state.counters["dropped_receiver"] += 1
        if not self._state.seal.is_from_stranger(data):
            with self._key_rotation.replying_under(data[1], None):
                self._join.send_unknown_sender(data, sender, source)

    def _hear_stranger(self, payload: Payload, data: bytes, sender: MemberId, source: Address) -> None:
        """Somebody who holds the group key and need not know us."""
        with self._key_rotation.replying_under(data[1], self._state.table.get(sender)):
            for message in payload.messages:
                if isinstance(message, JOINING):
                    self._hear_joining(message, sender, source)
                else:
                    self._state.counters["dropped_unsealed"] += 1

    def _hear(self, payload: Payload, data: bytes, sender: MemberId, source: Address) -> None:
        state = self._state
        row = state.table.get(sender)
        if row is None:
            self._join.send_unknown_sender(data, sender, source)
        elif data[1] == state.seal.key_id:
            self._hear_member(payload, row, source)
        else:
            with self._key_rotation.replying_under(data[1], row):
                self._hear_member(payload, row, source)

    def _hear_member(self, payload: Payload, row: MemberState, source: Address) -> None:
        state, sender, messages = self._state, row.member_id, payload.messages
        beat = self._note_life(payload, row)
        for message in messages:
            kind = type(message)
            if kind is Heartbeat:
                continue
            if kind not in SIGNED or not self._waits(message, sender, source):
                self._handle[kind](message, state.table.get(sender) or row, source)
        if beat is not None:
            agreed = self._anti_entropy.compare_digest(row, beat.digest)  # after the news that rode along
            self.only_life = agreed and len(messages) == 1
        if not self.only_life or row.liveness is not ALIVE or row.pending or payload.incarnation > row.incarnation:
            self._settle_doubts(payload, sender)

    def _waits(self, message: AnyMessage, sender: MemberId, source: Address) -> bool:
        """Whether a message with signatures must wait for a new stretch, or was dropped because too many do."""
        if not self.waiting and self._state.signatures.checks_left > 0:
            return False
        if len(self.waiting) >= MAX_WAITING:
            self._state.counters["dropped_signed"] += 1
        else:
            self.waiting.append((message, sender, source))
        return True

    def _note_life(self, payload: Payload, row: MemberState) -> Heartbeat | None:
        """Any authentic datagram but a stale heartbeat is a sign of life. Returns the heartbeat, unless it is stale."""
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
            self._reunited()
        elif self._partition_guard.outbound_cut and row.member_id in self._partition_guard.local_suspicions:
            self._updates.withdraw_suspicion(row.member_id)
        return beat

    def _settle_doubts(self, payload: Payload, sender: MemberId) -> None:
        """A sender that knows more of itself than we do is asked; one we hold for worse than it is, is told."""
        row = self._state.table.get(sender)
        if row is None:
            return
        self._updates.check_sender(row, payload.incarnation)
        if row.pending:
            self._own_name.warn_if_rival(row)

    def _hear_joining(self, message: AnyMessage, sender: MemberId, source: Address) -> None:
        if self._state.leaving:
            return  # whoever says goodbye lets nobody in, and introduces itself to nobody
        if type(message) not in SIGNED or not self._waits(message, sender, source):
            self._step_of_join(message, sender, source)

    def _step_of_join(self, message: AnyMessage, sender: MemberId, source: Address) -> None:
        match message:
            case Join():
                if self._may(self._joins, source[0]):
                    self._join.handle_join(message, sender, source)
            case Challenge():
                self._join.handle_challenge(message, sender, source)
            case Hello() if self._may(self._hellos, source[0]):
                self._join.handle_hello_untrusted(message, sender, source)
                if (row := self._state.table.get(sender)) is not None:
                    self._key_rotation.send_ring(row)
            case Welcome():
                self._join.handle_welcome(message, source)
            case UnknownSender():
                if (
                    asked := self._join.handle_unknown_sender(message, source)
                ) is not None and asked.member_id != sender:
                    self._failure_detector.on_address_reused(asked.member_id)

    def _handlers(self) -> dict[type, Callable[[Any, MemberState, Address], object]]:
        """Which part takes a member's message, by its type. Heartbeats have done their work as a sign of life."""
        claims, sync = self._updates, self._anti_entropy
        return {
            Ping: self._hear_ping,
            Ack: self._hear_ack,
            PingRequest: self._hear_ping_request,
            IndirectAck: lambda heard, _sender, _source: self._failure_detector.on_indirect_ack(heard),
            Alive: self._hear_row,
            PolicyMessage: self._hear_policy,
            Suspect: lambda claim, sender, _: claims.handle_suspect(claim, sender),
            VoteMessage: self._hear_vote,
            Dead: self._hear_death,
            Leave: lambda claim, sender, _: claims.handle_leave(claim, sender),
            Tombstone: lambda stone, sender, _: claims.handle_tombstone(stone, sender),
            NameInUse: lambda taken, sender, _: self._own_name.handle_name_in_use(taken, sender),
            SyncDigest: self._hear_sum,
            SyncOffer: lambda have, sender, _: sync.handle_offer(have, sender),
            SyncRequest: self._hear_want,
            SyncBusy: lambda _message, sender, _: sync.handle_busy(sender),
            KeyRingUpdate: lambda message, sender, _: self._key_rotation.handle_ring_update(message, sender),
            KeyRingReport: lambda held, sender, _: self._key_rotation.handle_ring_report(held, sender),
            **dict.fromkeys(JOINING, lambda step, sender, source: self._hear_joining(step, sender.member_id, source)),
        }

    def _may(self, rate: TokenBucket, source: Hashable) -> bool:
        """Whether what a source asks for may still be done."""
        if rate.allows(source, self._state.now):
            return True
        self._state.counters["dropped_rate"] += 1
        return False

    def _hear_ping(self, ping: Ping, sender: MemberState, source: Address) -> None:
        if self._may(self._asked, sender.member_id):
            self._probes.on_ping(ping, sender, source)

    def _hear_ack(self, ack: Ack, sender: MemberState, _source: Address) -> None:
        if self._probes.on_ack(ack, sender) and self._partition_guard.on_heard_by_peer(sender.member_id):
            self._reunited()

    def _hear_ping_request(self, request: PingRequest, sender: MemberState, _source: Address) -> None:
        if self._may(self._asked, sender.member_id):
            self._probes.on_ping_request(request, sender)

    def _hear_sum(self, opening: SyncDigest, sender: MemberState, _source: Address) -> None:
        if self._may(self._syncs, sender.member_id):
            self._anti_entropy.handle_digest(opening, sender)

    def _hear_want(self, want: SyncRequest, sender: MemberState, _source: Address) -> None:
        if self._may(self._wants, sender.member_id):
            self._anti_entropy.handle_request(want, sender)

    def _hear_row(self, message: Alive, sender: MemberState, _source: Address) -> None:
        asked_for = self._anti_entropy.expects_rows_from(sender)
        row = self._updates.handle_record_untrusted(
            bytes(message.record), message.signature, sender.member_id, sender, quietly=asked_for
        )
        if row is not None:
            self._anti_entropy.note_received(row.member_id, sender)

    def _hear_policy(self, message: PolicyMessage, sender: MemberState, _source: Address) -> None:
        asked_for = self._anti_entropy.expects_rows_from(sender)
        if member_id := self._policy_replication.handle_untrusted(message, sender, quietly=asked_for):
            self._anti_entropy.note_received(member_id, sender)

    def _hear_vote(self, vote: VoteMessage, sender: MemberState, _source: Address) -> None:
        """What is drained after a pause of our own holds no valid vote."""
        if not self.waking:
            self._updates.handle_vote(vote, sender)
            self._icmp_evidence.on_vote(vote.subject)

    def _hear_death(self, death: Dead, sender: MemberState, _source: Address) -> None:
        self._updates.handle_death(death, sender, stale=self.waking)
        self._icmp_evidence.on_death_claim(death.subject)
