"""Several members' records of one incident, on one time line.

Each record has its member's own clock. The datagrams align them. None arrived before it left, so the fastest datagrams
of both directions bound the difference of two clocks from both sides. The middle of the bounds is taken (NTP's clock
offset, RFC 5905, section 8). Members that exchanged nothing keep their wall clocks. The first record's wall clock gives
the time of day.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rumormill.gossip import Node
from rumormill.gossip.security.seal import HEADER_BYTES, TAG_BYTES
from rumormill.gossip.wire import AnyMessage, UndecodablePayload, decode_untrusted
from rumormill.membership.policy import PolicySchema
from rumormill.membership.record import MEMBER_ID_BYTES, MemberId
from rumormill.membership.view import Event
from rumormill.recording.player import Player, PlayOutcome
from rumormill.recording.reader import FlightRecord, RecordedSegment

_SENDER: Final = slice(10, 10 + MEMBER_ID_BYTES)
_RECEIVER: Final = slice(18, 18 + MEMBER_ID_BYTES)
"""The sender and the receiver in a datagram's header (gossip/security/seal.py)."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A datagram that left a member or arrived at one."""

    at: float
    """Seconds on the member's own clock."""
    data: bytes
    """As the record has it: header, payload, and a tag if it was sealed. One that could not be opened is as it came."""
    payload: bytes | None
    """None if it could not be opened."""

    @property
    def sender(self) -> MemberId:
        return MemberId(self.data[_SENDER])

    @property
    def receiver(self) -> MemberId:
        """All zeros if the sender did not know whom it addressed."""
        return MemberId(self.data[_RECEIVER])

    @property
    def identity(self) -> bytes:
        """Equal at the sender and at the receiver, and different for any two datagrams: the header has a counter."""
        return self.data[:HEADER_BYTES] + self.data[-TAG_BYTES:]


@dataclass(slots=True)
class PlayedSegment:
    """A segment that was played, and what passed meanwhile."""

    record: FlightRecord
    segment: RecordedSegment
    outcome: PlayOutcome
    sent: list[Passage] = field(default_factory=list)
    received: list[Passage] = field(default_factory=list)
    times: array[float] = field(default_factory=lambda: array("d"))
    """The Node's time after each entry, on its own clock."""
    names: dict[MemberId, str] = field(default_factory=dict)
    """The names of all members that it ever held."""

    def note_names(self, node: Node) -> None:
        self.names |= {row.member_id: row.name for row in node.inspect().table}


def play_segment(
    record: FlightRecord,
    segment: RecordedSegment,
    schema: PolicySchema,
    *,
    until: float | None = None,
    settings: Mapping[str, float] | None = None,
) -> PlayedSegment:
    """Play one segment. `until` is a time on the Node's own clock.

    Raises :class:`~rumormill.recording.snapshot.UnreadableSnapshot`.
    """
    player = Player(segment, schema, settings)
    played = PlayedSegment(record, segment, player.outcome)
    played.note_names(player.node)
    for kind, *fields in player.steps(until):
        now = player.outcome.at
        played.times.append(now)
        if kind == "sent":
            played.sent += (Passage(now, data, player.payload_of(data)) for _, data in player.outbox)
        elif kind == "event":
            played.note_names(player.node)
        elif kind == "receive":
            data, opened = fields[0], fields[-1]
            played.received.append(Passage(now, data, player.payload_of(data) if opened is True else None))
    return played


@dataclass(frozen=True, slots=True)
class Exchange:
    """A datagram on the common time line."""

    sent: float | None
    """Seconds since 1970; None if the sender's record does not have it."""
    received: float | None
    """None if the receiver's record does not have it: it was lost, or nobody recorded there."""
    sender: str
    receiver: str
    messages: Sequence[AnyMessage]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """One event of one member on the common time line."""

    at: float
    """Seconds since 1970."""
    observer: str
    event: Event


class Incident:
    """What the played segments of several members show together."""

    def __init__(self, played: Sequence[PlayedSegment]) -> None:
        """The segments of one member stand in order."""
        self.played = played
        self.members = list(dict.fromkeys(each.record.header.name for each in played))
        """The members whose records there are."""
        self.names: dict[MemberId, str] = {}
        for each in played:
            self.names |= each.names
        self._offsets = aligned_clocks(played)

    def offset_of(self, played: PlayedSegment) -> float:
        """Seconds since 1970 minus the clock of this segment's member."""
        return self._offsets[id(played.record)]

    def conclusions(self) -> list[Conclusion]:
        """What each member concluded, in order of time."""
        found = [
            Conclusion(event.at + self.offset_of(each), each.record.header.name, event)
            for each in self.played
            for event in each.outcome.events
        ]
        return sorted(found, key=lambda conclusion: conclusion.at)

    def exchanges(self, begin: float, end: float) -> list[Exchange]:
        """The datagrams between these times, by when they were sent or, if nobody recorded that, received."""
        departures, arrivals = self._passages(begin, end)
        waiting: defaultdict[bytes, deque[float]] = defaultdict(deque)
        for at, passage in arrivals:
            waiting[passage.identity].append(at)
        found = [
            self._exchange(at, waiting[passage.identity].popleft() if waiting[passage.identity] else None, passage)
            for at, passage in departures
        ]
        recorded = set(self.members)
        for at, passage in arrivals:
            if waiting[passage.identity] and self.name_of(passage.sender) not in recorded:
                waiting[passage.identity].popleft()
                found.append(self._exchange(None, at, passage))
        return sorted(found, key=lambda exchange: exchange.sent or exchange.received or 0.0)

    def name_of(self, member_id: MemberId) -> str:
        """The name of a member, or its id in hexadecimal digits if no record names it."""
        return self.names.get(member_id) or (member_id.hex() if any(member_id) else "?")

    def _passages(self, begin: float, end: float) -> tuple[list[tuple[float, Passage]], list[tuple[float, Passage]]]:
        departures: list[tuple[float, Passage]] = []
        arrivals: list[tuple[float, Passage]] = []
        for each in self.played:
            offset = self.offset_of(each)
            for passages, found in ((each.sent, departures), (each.received, arrivals)):
                found += [(p.at + offset, p) for p in passages if begin <= p.at + offset <= end]
        return departures, arrivals

    def _exchange(self, sent: float | None, received: float | None, passage: Passage) -> Exchange:
        return Exchange(
            sent, received, self.name_of(passage.sender), self.name_of(passage.receiver), messages_of(passage)
        )


def messages_of(passage: Passage) -> Sequence[AnyMessage]:
    """What a datagram says; nothing if it cannot be read."""
    try:
        return decode_untrusted(passage.payload or b"").messages
    except UndecodablePayload:
        return ()


def aligned_clocks(played: Sequence[PlayedSegment]) -> dict[int, float]:
    """By the identity of each record: seconds since 1970 minus its member's clock."""
    walls = {id(each.record): each.record.header.wall_offset for each in played}
    delays = _shortest_delays(played)
    offsets: dict[int, float] = {}
    for first, wall in walls.items():
        if first in offsets:
            continue
        offsets[first] = wall
        reached = deque([first])
        while reached:
            one = reached.popleft()
            for other in walls.keys() - offsets.keys():
                difference = _difference(delays, one, other)
                if difference is not None:
                    offsets[other] = offsets[one] - difference
                    reached.append(other)
    return offsets


def _difference(delays: Mapping[tuple[int, int], float], one: int, other: int) -> float | None:
    """The other's clock minus the one's; None if they did not exchange datagrams in both directions."""
    there, back = delays.get((one, other)), delays.get((other, one))
    return None if there is None or back is None else (there - back) / 2


def _shortest_delays(played: Sequence[PlayedSegment]) -> dict[tuple[int, int], float]:
    """By sender and receiver: the smallest difference between arrival and departure, each on its own clock."""
    departures = {p.identity: (id(each.record), p.at) for each in played for p in each.sent}
    delays: dict[tuple[int, int], float] = {}
    for each in played:
        receiver = id(each.record)
        for passage in each.received:
            sender, sent = departures.get(passage.identity, (receiver, 0.0))
            if sender != receiver:
                delay = passage.at - sent
                delays[sender, receiver] = min(delay, delays.get((sender, receiver), delay))
    return delays
