"""The baseline: plain SWIM with round-robin probing and suspicion, as in the paper and as in memberlist.

It runs under the same network and the same faults, for comparison. It implements Das, Gupta, Motivala (2002), sections
4.1 (piggybacked dissemination), 4.2 (suspicion) and 4.3 (round-robin probing), with memberlist's constants, without
Lifeguard. Each period, a member pings one other. Without an ack in time, it asks three others to ping that member.
Without an ack by the end of the period, it suspects the member. A suspect that does not refute within the suspicion
time is confirmed dead. Datagrams are unencrypted msgpack. A join is answered with the whole table in several datagrams,
where memberlist opens a TCP connection. Dead members are not retried, so a split never heals.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from rumormill.membership import Address, Connectivity, Event, InstanceId, Liveness, Member, PoolView, Readiness
from rumormill.simulations.protocol import NodeStart

MAX_PAYLOAD = 1350
HELPERS = 3


@dataclass(frozen=True, slots=True)
class SwimSettings:
    """Times in seconds. The defaults are memberlist's for a LAN. Lifeguard's paper uses them for its baseline too."""

    period: float = 1.0
    timeout: float = 0.5
    """From a direct ping to the indirect pings."""
    suspicion_mult: float = 5.0
    """The suspicion time is this times log10(members), in periods."""
    retransmit_mult: int = 4
    """Each update is sent this times log10(members) times."""

    def suspicion(self, members: int) -> float:
        return self.suspicion_mult * max(1.0, math.log10(max(1, members))) * self.period

    def transmissions(self, members: int) -> int:
        return self.retransmit_mult * math.ceil(math.log10(members + 1))


class Update(msgspec.Struct, frozen=True, array_like=True):
    """A membership update."""

    name: str
    host: str
    port: int
    incarnation: int
    liveness: Liveness


class Datagram(msgspec.Struct, frozen=True, array_like=True):
    kind: int
    sequence: int
    subject: str
    """The member that a ping request asks to ping."""
    sender: str
    updates: list[Update]


PING, ACK, PING_REQUEST, JOIN = range(4)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Datagram).decode


@dataclass(slots=True)
class SwimPeer:
    update: Update
    since: float
    suspected_until: float = math.inf
    sent: int = 0
    """Transmissions of the current update."""

    @property
    def address(self) -> Address:
        return (self.update.host, self.update.port)


@dataclass(frozen=True, slots=True)
class SwimFactory:
    settings: SwimSettings = field(default_factory=SwimSettings)

    def __call__(self, start: NodeStart) -> SwimNode:
        return SwimNode(start, self.settings)


class SwimNode:
    """One member; a :class:`~rumormill.simulations.protocol.SimulatedNode`."""

    def __init__(self, start: NodeStart, settings: SwimSettings) -> None:
        self.name = start.name
        self.settings = settings
        self.stopped: str | None = None
        self._rng: random.Random = start.rng
        self._now = start.now
        host, port = start.address
        self._me = SwimPeer(Update(start.name, host, port, 1, Liveness.ALIVE), start.now)
        self._peers: dict[str, SwimPeer] = {start.name: self._me}
        self._alive = 1
        self._pending: dict[str, None] = {start.name: None}
        self._seeds: list[Address] = []
        self._next_join = start.now
        self._order: list[str] = []
        self._sequence = 0
        self._target: str | None = None
        self._acked = False
        self._indirect_at = math.inf
        self._next_period = start.now + start.rng.random() * settings.period
        self._next_expiry = math.inf
        self._relays: dict[int, tuple[Address, int]] = {}
        self._outbox: list[tuple[Address, bytes]] = []
        self._events: list[Event] = []
        self._left_at = math.inf
        self._view: PoolView | None = None

    # -- The interface of SimulatedNode

    @property
    def deadline(self) -> float:
        return min(self._indirect_at, self._next_period, self._next_expiry, self._next_join, self._left_at)

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        self._seeds = [address for address in addresses if address != self._me.address]
        self._next_join = self._now if self._seeds else math.inf

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        self._now = now
        try:
            datagram = _decode(data)
        except msgspec.DecodeError:
            return
        for update in datagram.updates:
            self._merge(update, datagram.sender)
        match datagram.kind:
            case 0:
                self._send(source, ACK, datagram.sequence)
            case 1:
                self._handle_ack(datagram.sequence)
            case 2 if (peer := self._peers.get(datagram.subject)) is not None:
                self._sequence += 1
                self._relays[self._sequence] = (source, datagram.sequence)
                if len(self._relays) > 256:
                    del self._relays[next(iter(self._relays))]
                self._send(peer.address, PING, self._sequence)
            case 3:
                self._send_table(source)

    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None:
        """SWIM ignores refusals."""

    def handle_timer(self, now: float) -> None:
        self._now = now
        if now >= self._next_join:
            self._join()
        if now >= self._next_expiry:
            self._confirm_expired()
        if now >= self._indirect_at:
            self._ping_indirectly()
        if now >= self._next_period:
            self._end_period()

    def datagrams_to_send(self) -> list[tuple[Address, bytes]]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def take_events(self) -> Sequence[Event]:
        events, self._events = self._events, []
        return events

    def leave(self, now: float) -> None:
        self._now = now
        self._update(self._me, Liveness.LEFT, self._me.update.incarnation)
        for name in self._rng.sample([*self._peers], min(6, len(self._peers))):
            self._send(self._peers[name].address, ACK, 0)
        self._left_at = now + 0.2

    @property
    def has_left(self) -> bool:
        return self._now >= self._left_at

    @property
    def joined(self) -> bool:
        return len(self._peers) > 1

    @property
    def table_digest(self) -> int:
        rows = sorted((p.update.name, p.update.incarnation) for p in self._peers.values() if p.update.liveness.present)
        return int.from_bytes(hashlib.blake2b(repr(rows).encode(), digest_size=8).digest(), "big")

    @property
    def view(self) -> PoolView:
        if self._view is None:
            members = tuple(self._member(self._peers[name]) for name in sorted(self._peers))
            self._view = PoolView("swim", self.name, connectivity=Connectivity.CONNECTED, members=members)
        return self._view

    def _member(self, peer: SwimPeer) -> Member:
        update = peer.update
        return Member(
            name=update.name,
            generation=1,
            instance=InstanceId(update.name.encode()),
            incarnation=update.incarnation,
            address=peer.address,
            service="",
            url="",
            zone="",
            release="",
            weight=1000,
            readiness=Readiness.PASSING,
            tags={},
            liveness=update.liveness,
            pending=False,
            since=peer.since,
            why="",
        )

    # -- Probing

    def _end_period(self) -> None:
        """Suspect the last target if it did not answer, and start the next probe."""
        if self._target is not None and not self._acked:
            peer = self._peers.get(self._target)
            if peer is not None and peer.update.liveness is Liveness.ALIVE:
                self._update(peer, Liveness.SUSPECT, peer.update.incarnation)
        self._next_period += self.settings.period
        if self._next_period <= self._now:
            self._next_period = self._now + self.settings.period
        self._target, self._indirect_at = self._next_target(), math.inf
        if self._target is not None:
            self._acked = False
            self._sequence += 1
            self._probe = self._sequence
            self._indirect_at = self._now + self.settings.timeout
            self._send(self._peers[self._target].address, PING, self._probe)

    def _next_target(self) -> str | None:
        for _ in range(2):
            while self._order:
                name = self._order.pop()
                peer = self._peers.get(name)
                if peer is not None and peer is not self._me and peer.update.liveness.present:
                    return name
            self._order = [*self._peers]
            self._rng.shuffle(self._order)
        return None

    def _ping_indirectly(self) -> None:
        self._indirect_at = math.inf
        if self._acked or self._target is None:
            return
        able = [
            name
            for name, peer in self._peers.items()
            if peer.update.liveness is Liveness.ALIVE and name not in (self.name, self._target)
        ]
        for name in self._rng.sample(able, min(HELPERS, len(able))):
            self._send(self._peers[name].address, PING_REQUEST, self._probe, self._target)

    def _handle_ack(self, sequence: int) -> None:
        if (relay := self._relays.pop(sequence, None)) is not None:
            self._send(relay[0], ACK, relay[1])
        elif self._target is not None and sequence == self._probe:
            self._acked = True

    # -- Membership updates

    def _merge(self, update: Update, sender: str) -> None:
        peer = self._peers.get(update.name)
        if peer is self._me:
            self._merge_own(update)
        elif peer is None:
            if update.liveness.present:
                self._peers[update.name] = peer = SwimPeer(update, self._now)
                self._alive += 1
                self._broadcast(peer)
                self._emit("joined", update.name, f"{update.name} joined")
        elif (update.incarnation, update.liveness) > (peer.update.incarnation, peer.update.liveness):
            self._update(peer, update.liveness, update.incarnation, sender, (update.host, update.port))

    def _merge_own(self, update: Update) -> None:
        if update.liveness is not Liveness.ALIVE and update.incarnation >= self._me.update.incarnation:
            if self._left_at == math.inf:
                self._update(self._me, Liveness.ALIVE, update.incarnation + 1)
        elif update.incarnation > self._me.update.incarnation or (
            (update.host, update.port) != self._me.address and update.incarnation == self._me.update.incarnation
        ):
            self._update(self._me, Liveness.ALIVE, update.incarnation + 1)

    def _update(
        self, peer: SwimPeer, liveness: Liveness, incarnation: int, by: str = "", address: Address | None = None
    ) -> None:
        before = peer.update.liveness
        host, port = address or peer.address
        peer.update = Update(peer.update.name, host, port, incarnation, liveness)
        peer.since = self._now
        self._alive += liveness.present - before.present
        peer.suspected_until = math.inf
        if liveness is Liveness.SUSPECT:
            peer.suspected_until = self._now + self.settings.suspicion(self._alive)
            self._next_expiry = min(self._next_expiry, peer.suspected_until)
        self._broadcast(peer)
        kind = _KINDS[liveness] if liveness is not Liveness.ALIVE else ("returned" if not before.present else "refuted")
        self._emit(kind, peer.update.name, f"{peer.update.name} {kind} {by and 'according to ' + by}".rstrip())

    def _confirm_expired(self) -> None:
        for peer in [p for p in self._peers.values() if p.suspected_until <= self._now]:
            self._update(peer, Liveness.DEAD, peer.update.incarnation)
        self._next_expiry = min((p.suspected_until for p in self._peers.values()), default=math.inf)

    def _emit(self, kind: str, member: str, text: str) -> None:
        self._events.append(Event(self._now, kind, member, text))

    def _broadcast(self, peer: SwimPeer) -> None:
        peer.sent = 0
        self._pending[peer.update.name] = None
        self._view = None

    # -- Sending

    def _send(self, to: Address, kind: int, sequence: int, subject: str = "") -> None:
        head = Datagram(kind, sequence, subject, self.name, [])
        self._outbox.append((to, _encode(msgspec.structs.replace(head, updates=self._piggyback(MAX_PAYLOAD - 64)))))

    def _piggyback(self, room: int) -> list[Update]:
        """Updates to piggyback: as many as fit, the least often sent first."""
        limit = self.settings.transmissions(self._alive)
        updates: list[Update] = []
        for name in sorted(self._pending, key=lambda name: self._peers[name].sent):
            peer = self._peers[name]
            room -= len(name) + len(peer.update.host) + 16
            if room < 0:
                break
            updates.append(peer.update)
            peer.sent += 1
            if peer.sent >= limit:
                del self._pending[name]
        return updates

    def _join(self) -> None:
        """Ask the seeds for their tables until another member is known."""
        self._next_join = math.inf
        if self.joined or not self._seeds:
            return
        for address in self._seeds:
            self._send(address, JOIN, 0)
        self._next_join = self._now + 0.5

    def _send_table(self, to: Address) -> None:
        updates = [peer.update for peer in self._peers.values()]
        for start in range(0, len(updates), 32):
            batch = updates[start : start + 32]
            self._outbox.append((to, _encode(Datagram(ACK, 0, "", self.name, batch))))


_KINDS = {Liveness.SUSPECT: "suspected", Liveness.DEAD: "evicted", Liveness.LEFT: "left"}
