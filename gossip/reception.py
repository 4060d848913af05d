"""What a datagram sets off: a sign of life first, then each message to the part it concerns.

A member's messages go to the parts by their type. A stranger's are the steps of a join; anything else it says is
answered with *who*. What is addressed to another instance is an ack that we hand back, or meant for whoever lived at
our address before us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rumormill.gossip.claims import Claims
from rumormill.gossip.detector import Detector
from rumormill.gossip.isolation import Isolation
from rumormill.gossip.join import Joining
from rumormill.gossip.naming import Naming
from rumormill.gossip.pings import Pings
from rumormill.gossip.refusals import Refusals
from rumormill.gossip.rotation import Rotation
from rumormill.gossip.seal import NOBODY, Unopened
from rumormill.gossip.state import State
from rumormill.gossip.sync import Sync
from rumormill.gossip.wire import (
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


class Reception:
    """Opens, decodes and hands on what arrives. ``waking`` while we drain what came during a pause of our own."""

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
        self._rotation = rotation
        self._reunited = on_reunited
        self._handle = self._handlers()
        self.waking = False

    def datagram_untrusted(self, data: bytes, source: Address) -> None:
        """Take in one datagram; what cannot be used is counted and dropped."""
        state = self._state
        state.counters["received"] += 1
        try:
            sender, receiver = state.seal.parties(data)
            if receiver not in (state.me.half, NOBODY):
                self._misdirected(data, sender, receiver, source)
                return
            payload = decode_untrusted(state.seal.open(data, sender))
        except Unopened as refusal:
            state.counters["dropped_" + refusal.reason] += 1
            self._rotation.unopened(refusal.reason, data, source)
        except UndecodablePayload:
            state.counters["dropped_payload"] += 1
        else:
            if data[1] == self._rotation.primary_id:
                self._take(payload, sender, receiver, source)
            else:
                with self._rotation.answering(data[1], state.table.get(sender)):
                    self._take(payload, sender, receiver, source)

    def _take(self, payload: Payload, sender: bytes, receiver: bytes, source: Address) -> None:
        if sender == self._state.me.half:
            self._hear_ourselves(payload, sender, source)
        else:
            self._hear(payload, sender, receiver, source)

    def _misdirected(self, data: bytes, sender: bytes, receiver: bytes, source: Address) -> None:
        """For another instance: an ack we hand back, or meant for whoever lived here before us. Raises Unopened."""
        state = self._state
        if self._pings.hand_back(sender, receiver, data):
            return
        state.seal.open(data, sender)
        state.counters["dropped_receiver"] += 1
        with self._rotation.answering(data[1], None):
            self._joining.ask_who(receiver, sender, source)

    def _hear_ourselves(self, payload: Payload, sender: bytes, source: Address) -> None:
        """Our own instance speaks from elsewhere: our join come back to us, or a clone of this machine."""
        for message in payload.messages:
            if isinstance(message, Join):
                self._joining.hear_join(message, sender, source)
                return
        self._state.counters["dropped_own"] += 1

    def _hear(self, payload: Payload, sender: bytes, receiver: bytes, source: Address) -> None:
        state = self._state
        row = state.table.get(sender)
        if row is None:
            self._hear_stranger(payload, sender, receiver, source)
            return
        self._note_life(payload, row)
        for message in payload.messages:
            self._handle[type(message)](message, state.table.get(sender) or row, source)
        self._settle_doubts(payload, sender)

    def _note_life(self, payload: Payload, row: Row) -> None:
        """Any authentic datagram but a stale heartbeat is a sign of life."""
        state = self._state
        beat = next((message for message in payload.messages if isinstance(message, Heartbeat)), None)
        if beat is not None:
            if not self._detector.heartbeat(row, beat):
                state.counters["stale_heartbeats"] += 1
                return
            self._sync.compare(row, beat.digest)
        else:
            self._detector.alive(row.half, state.now)
        state.heard_anyone = state.now
        if self._isolation.sign_of_life(row.half):
            self._reunited()

    def _settle_doubts(self, payload: Payload, sender: bytes) -> None:
        """A sender that knows more of itself than we do is asked; one we hold for worse than it is, is told."""
        row = self._state.table.get(sender)
        if row is None:
            return
        if payload.incarnation > row.incarnation:
            self._claims.ask(sender, row)
        elif row.liveness is not Liveness.ALIVE:
            self._claims.answer(row, row)
        self._naming.heard_from(row)

    def _hear_stranger(self, payload: Payload, sender: bytes, receiver: bytes, source: Address) -> None:
        """Somebody whose row we lack: the steps of a join, or a question back."""
        for message in payload.messages:
            match message:
                case Join() | Challenge() | Hello() | Welcome() | Who():
                    self._hear_joining(message, sender, source)
                case Taken():
                    self._naming.hear_taken(message, source)
                case _ if self._state.table.get(sender) is None:
                    self._joining.ask_who(receiver, sender, source)
                    return

    def _hear_joining(self, message: AnyMessage, sender: bytes, source: Address) -> None:
        if self._claims.leaving:
            return  # whoever says goodbye lets nobody in, and introduces itself to nobody
        match message:
            case Join():
                self._joining.hear_join(message, sender, source)
            case Challenge():
                self._joining.hear_challenge(message, sender, source)
            case Hello():
                self._joining.hear_hello_untrusted(message, sender, source)
                if (row := self._state.table.get(sender)) is not None:
                    self._rotation.teach(row)
            case Welcome():
                self._joining.hear_welcome(message, sender)
            case Who():
                asked = self._state.table.get(message.asked)
                if asked is not None and asked.half != sender and asked.address == source:
                    self._detector.refused(message.asked)
                self._joining.hear_who(message, source)

    def _handlers(self) -> dict[type, Callable[[Any, Row, Address], object]]:
        """Which part takes a member's message, by its type. Heartbeats have done their work as a sign of life."""
        claims, sync, pings = self._claims, self._sync, self._pings
        return {
            Heartbeat: lambda _message, _sender, _source: None,
            Ping: pings.answer,
            Ack: lambda ack, sender, _: pings.acked(ack, sender),
            PingRequest: lambda request, sender, _: pings.help(request, sender),
            Heard: lambda heard, _sender, _source: self._detector.heard_of(heard),
            RowMessage: self._hear_row,
            Suspect: lambda claim, sender, _: claims.hear_suspect(claim, sender),
            Vote: self._hear_vote,
            Death: self._hear_death,
            Left: lambda claim, sender, _: claims.hear_left(claim, sender),
            Tombstone: lambda stone, sender, _: claims.hear_tombstone(stone, sender),
            Taken: lambda taken, _sender, source: self._naming.hear_taken(taken, source),
            Sum: lambda opening, sender, _: sync.hear_sum(opening, sender),
            Have: lambda have, sender, _: sync.hear_have(have, sender),
            Want: lambda want, sender, _: sync.hear_want(want, sender),
            Busy: lambda _message, sender, _: sync.hear_busy(sender),
            Keys: lambda message, sender, _: self._rotation.hear_keys(message, sender),
            KeysHeld: lambda held, sender, _: self._rotation.hear_held(held, sender),
            **dict.fromkeys((Join, Challenge, Hello, Welcome, Who), self._hear_joining_member),
        }

    def _hear_row(self, message: RowMessage, sender: Row, _source: Address) -> None:
        asked_for = self._sync.expects(sender)
        if row := self._claims.hear_record_untrusted(bytes(message.record), sender, quietly=asked_for):
            self._sync.row_arrived(row, sender)

    def _hear_vote(self, vote: Vote, sender: Row, _source: Address) -> None:
        """What is drained after a pause of our own holds no valid vote."""
        if not self.waking:
            self._claims.hear_vote(vote, sender)
            self._refusals.heard_vote(vote.subject)

    def _hear_death(self, death: Death, sender: Row, _source: Address) -> None:
        self._claims.hear_death(death, sender, stale=self.waking)
        self._refusals.heard_death(death.subject)

    def _hear_joining_member(self, message: AnyMessage, sender: Row, source: Address) -> None:
        self._hear_joining(message, sender.half, source)
