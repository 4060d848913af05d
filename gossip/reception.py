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

from rumormill.gossip.claims import Claims
from rumormill.gossip.detector import Detector
from rumormill.gossip.isolation import Isolation
from rumormill.gossip.join import Joining
from rumormill.gossip.limits import Rate
from rumormill.gossip.naming import Naming
from rumormill.gossip.pings import Pings
from rumormill.gossip.policies import Policies
from rumormill.gossip.refusals import Refusals
from rumormill.gossip.rotation import Rotation
from rumormill.gossip.seal import HEADER, NOBODY, STRANGER, Unopened
from rumormill.gossip.state import State
from rumormill.gossip.sync import Sync
from rumormill.gossip.wire import (
    JOINING,
    Ack,
    AnyMessage,
    Busy,
    Challenge,
    Death,
    Have,
    Heard,
    Heartbeat,
    Hello,
    Join,
    Keys,
    KeysHeld,
    Left,
    Payload,
    Ping,
    PingRequest,
    PolicyMessage,
    Sum,
    Suspect,
    Taken,
    Tombstone,
    UndecodablePayload,
    Vote,
    Want,
    Welcome,
    Who,
    decode_untrusted,
)
from rumormill.gossip.wire import Row as RowMessage
from rumormill.membership.record import Address, Liveness
from rumormill.membership.row import Row

SIGNED = frozenset((RowMessage, Left, Vote, Death, Tombstone, Hello, Welcome))
"""Messages that have signatures to be checked."""
MAX_WAITING = 1024
ALIVE = Liveness.ALIVE
"""To look a member of an enum up costs as much as a call, in Python 3.11."""
NOISE_GAP = 0.05
"""Seconds between two datagrams of no use here that are looked at all the same: our operator may want to know."""


class Reception:
    """Opens, decodes and hands on what arrives. ``waking`` while we drain what came during a pause of our own."""

    __slots__ = (
        "_asked",
        "_claims",
        "_detector",
        "_handle",
        "_hellos",
        "_isolation",
        "_joining",
        "_joins",
        "_liars",
        "_naming",
        "_noise_at",
        "_pings",
        "_policies",
        "_refusals",
        "_reunited",
        "_rotation",
        "_state",
        "_sync",
        "_syncs",
        "_wants",
        "only_life",
        "waiting",
        "waking",
    )

    def __init__(
        self,
        *,
        state: State,
        claims: Claims,
        isolation: Isolation,
        pings: Pings,
        detector: Detector,
        refusals: Refusals,
        naming: Naming,
        joining: Joining,
        sync: Sync,
        policies: Policies,
        rotation: Rotation,
        on_reunited: Callable[[], None],
    ) -> None:
        self._state = state
        self._claims = claims
        self._isolation = isolation
        self._pings = pings
        self._detector = detector
        self._refusals = refusals
        self._naming = naming
        self._joining = joining
        self._sync = sync
        self._policies = policies
        self._rotation = rotation
        self._reunited = on_reunited
        self._joins, self._hellos = Rate(100, 2000), Rate(100, 2000)
        self._asked, self._syncs, self._wants = Rate(50, 2500), Rate(10, 250), Rate(100, 2000)
        """Pings and pings by way of us; openings of a sync; rows asked for."""
        self._handle = self._handlers()
        self._liars = state.signatures.liars
        self.waiting: deque[tuple[AnyMessage, bytes, Address]] = deque()
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
        if data[2:10] != seal.label or data[0] not in seal.kinds:
            if now - self._noise_at >= NOISE_GAP:
                self._noise_at = now
                return False
            state.counters["dropped_noise"] += 1
        elif not self._liars or state.signatures.hears(data[10:18], now):
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
        except Unopened as refusal:
            state.counters["dropped_" + refusal.reason] += 1
            self._rotation.unopened(refusal.reason, data, source)
        except UndecodablePayload:
            state.counters["dropped_payload"] += 1
        else:
            return True
        return False

    def go_on(self) -> None:
        """A new stretch: hear what had to wait for it."""
        state, waiting = self._state, self.waiting
        while waiting and state.signatures.left > 0:
            message, sender, source = waiting.popleft()
            if isinstance(message, JOINING):
                self._step_of_join(message, sender, source)
            elif (row := state.table.get(sender)) is not None:
                self._handle[type(message)](message, row, source)

    def _take_in(self, data: bytes, source: Address) -> None:
        """Raises Unopened and UndecodablePayload."""
        state, seal = self._state, self._state.seal
        sender, receiver = seal.parties(data)
        if receiver != seal.half and receiver != NOBODY:
            self._misdirected(data, sender, receiver, source)
        elif data[0] == STRANGER:
            self._hear_stranger(decode_untrusted(seal.open_from_stranger(data, sender)), data, sender, source)
        elif sender == seal.half:
            state.counters["dropped_own"] += 1
        elif sender not in seal.peers and not state.knows(sender):
            self._open_unknown(data, sender, source)
        else:
            self._hear(decode_untrusted(seal.open(data, sender)), data, sender, source)

    def _open_unknown(self, data: bytes, sender: bytes, source: Address) -> None:
        """From somebody whose keys we lack. Unsealed, it may still be a step of a join."""
        if self._state.seal.keyring is None:
            payload = decode_untrusted(data[HEADER.size :])
            if any(isinstance(message, JOINING) for message in payload.messages):
                self._hear_stranger(payload, data, sender, source)
                return
        self._state.counters["dropped_stranger"] += 1
        with self._rotation.answering(data[1], None):
            self._joining.ask_who(data, sender, source)

    def _misdirected(self, data: bytes, sender: bytes, receiver: bytes, source: Address) -> None:
        """For another instance: an ack we hand back, or meant for whoever lived here before us."""
        if self._pings.hand_back(sender, receiver, data):
            return
        self._state.counters["dropped_receiver"] += 1
        if not self._state.seal.for_stranger(data):
            with self._rotation.answering(data[1], None):
                self._joining.ask_who(data, sender, source)

    def _hear_stranger(self, payload: Payload, data: bytes, sender: bytes, source: Address) -> None:
        """Somebody who holds the group key and need not know us."""
        with self._rotation.answering(data[1], self._state.table.get(sender)):
            for message in payload.messages:
                if isinstance(message, JOINING):
                    self._hear_joining(message, sender, source)
                else:
                    self._state.counters["dropped_unsealed"] += 1

    def _hear(self, payload: Payload, data: bytes, sender: bytes, source: Address) -> None:
        state = self._state
        row = state.table.get(sender)
        if row is None:
            self._joining.ask_who(data, sender, source)
        elif data[1] == state.seal.key_id:
            self._hear_member(payload, row, source)
        else:
            with self._rotation.answering(data[1], row):
                self._hear_member(payload, row, source)

    def _hear_member(self, payload: Payload, row: Row, source: Address) -> None:
        state, sender, messages = self._state, row.half, payload.messages
        beat = self._note_life(payload, row)
        for message in messages:
            kind = type(message)
            if kind is Heartbeat:
                continue
            if kind not in SIGNED or not self._waits(message, sender, source):
                self._handle[kind](message, state.table.get(sender) or row, source)
        if beat is not None:
            agreed = self._sync.compare(row, beat.digest)  # after the news that rode along
            self.only_life = agreed and len(messages) == 1
        if not self.only_life or row.liveness is not ALIVE or row.pending or payload.incarnation > row.incarnation:
            self._settle_doubts(payload, sender)

    def _waits(self, message: AnyMessage, sender: bytes, source: Address) -> bool:
        """Whether a message with signatures must wait for a new stretch, or was dropped because too many do."""
        if not self.waiting and self._state.signatures.left > 0:
            return False
        if len(self.waiting) >= MAX_WAITING:
            self._state.counters["dropped_signed"] += 1
        else:
            self.waiting.append((message, sender, source))
        return True

    def _note_life(self, payload: Payload, row: Row) -> Heartbeat | None:
        """Any authentic datagram but a stale heartbeat is a sign of life. Returns the heartbeat, unless it is stale."""
        state = self._state
        beat = None
        for message in payload.messages:
            if type(message) is Heartbeat:
                beat = message
                break
        if beat is None:
            self._detector.alive(row.half, state.now)
        elif not self._detector.heartbeat(row, beat):
            state.counters["stale_heartbeats"] += 1
            return None
        state.heard_anyone = state.now
        if self._isolation.sign_of_life(row.half):
            self._reunited()
        elif self._isolation.mute and row.half in self._isolation.own_suspicions:
            self._claims.withdraw(row.half)
        return beat

    def _settle_doubts(self, payload: Payload, sender: bytes) -> None:
        """A sender that knows more of itself than we do is asked; one we hold for worse than it is, is told."""
        row = self._state.table.get(sender)
        if row is None:
            return
        if payload.incarnation > row.incarnation:
            self._claims.ask(sender, row)
        elif row.liveness is not ALIVE:
            self._claims.answer(row, row)
        if row.pending:
            self._naming.heard_from(row)

    def _hear_joining(self, message: AnyMessage, sender: bytes, source: Address) -> None:
        if self._state.leaving:
            return  # whoever says goodbye lets nobody in, and introduces itself to nobody
        if type(message) not in SIGNED or not self._waits(message, sender, source):
            self._step_of_join(message, sender, source)

    def _step_of_join(self, message: AnyMessage, sender: bytes, source: Address) -> None:
        match message:
            case Join():
                if self._may(self._joins, source[0]):
                    self._joining.hear_join(message, sender, source)
            case Challenge():
                self._joining.hear_challenge(message, sender, source)
            case Hello() if self._may(self._hellos, source[0]):
                self._joining.hear_hello_untrusted(message, sender, source)
                if (row := self._state.table.get(sender)) is not None:
                    self._rotation.teach(row)
            case Welcome():
                self._joining.hear_welcome(message, source)
            case Who():
                if (asked := self._joining.hear_who(message, source)) is not None and asked.half != sender:
                    self._detector.refused(asked.half)

    def _handlers(self) -> dict[type, Callable[[Any, Row, Address], object]]:
        """Which part takes a member's message, by its type. Heartbeats have done their work as a sign of life."""
        claims, sync = self._claims, self._sync
        return {
            Ping: self._hear_ping,
            Ack: self._hear_ack,
            PingRequest: self._hear_ping_request,
            Heard: lambda heard, _sender, _source: self._detector.heard_of(heard),
            RowMessage: self._hear_row,
            PolicyMessage: self._hear_policy,
            Suspect: lambda claim, sender, _: claims.hear_suspect(claim, sender),
            Vote: self._hear_vote,
            Death: self._hear_death,
            Left: lambda claim, sender, _: claims.hear_left(claim, sender),
            Tombstone: lambda stone, sender, _: claims.hear_tombstone(stone, sender),
            Taken: lambda taken, sender, _: self._naming.hear_taken(taken, sender),
            Sum: self._hear_sum,
            Have: lambda have, sender, _: sync.hear_have(have, sender),
            Want: self._hear_want,
            Busy: lambda _message, sender, _: sync.hear_busy(sender),
            Keys: lambda message, sender, _: self._rotation.hear_keys(message, sender),
            KeysHeld: lambda held, sender, _: self._rotation.hear_held(held, sender),
            **dict.fromkeys(JOINING, lambda step, sender, source: self._hear_joining(step, sender.half, source)),
        }

    def _may(self, rate: Rate, source: Hashable) -> bool:
        """Whether what a source asks for may still be done."""
        if rate.allows(source, self._state.now):
            return True
        self._state.counters["dropped_rate"] += 1
        return False

    def _hear_ping(self, ping: Ping, sender: Row, source: Address) -> None:
        if self._may(self._asked, sender.half):
            self._pings.answer(ping, sender, source)

    def _hear_ack(self, ack: Ack, sender: Row, _source: Address) -> None:
        if self._pings.acked(ack, sender) and self._isolation.heard_us(sender.half):
            self._reunited()

    def _hear_ping_request(self, request: PingRequest, sender: Row, _source: Address) -> None:
        if self._may(self._asked, sender.half):
            self._pings.help(request, sender)

    def _hear_sum(self, opening: Sum, sender: Row, _source: Address) -> None:
        if self._may(self._syncs, sender.half):
            self._sync.hear_sum(opening, sender)

    def _hear_want(self, want: Want, sender: Row, _source: Address) -> None:
        if self._may(self._wants, sender.half):
            self._sync.hear_want(want, sender)

    def _hear_row(self, message: RowMessage, sender: Row, _source: Address) -> None:
        asked_for = self._sync.expects(sender)
        row = self._claims.hear_record_untrusted(
            bytes(message.record), message.signature, sender.half, sender, quietly=asked_for
        )
        if row is not None:
            self._sync.arrived(row.half, sender)

    def _hear_policy(self, message: PolicyMessage, sender: Row, _source: Address) -> None:
        asked_for = self._sync.expects(sender)
        if half := self._policies.hear_untrusted(message, sender, quietly=asked_for):
            self._sync.arrived(half, sender)

    def _hear_vote(self, vote: Vote, sender: Row, _source: Address) -> None:
        """What is drained after a pause of our own holds no valid vote."""
        if not self.waking:
            self._claims.hear_vote(vote, sender)
            self._refusals.heard_vote(vote.subject)

    def _hear_death(self, death: Death, sender: Row, _source: Address) -> None:
        self._claims.hear_death(death, sender, stale=self.waking)
        self._refusals.heard_death(death.subject)
