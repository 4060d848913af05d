"""A participant of a few lines, to test the world itself: it tells every contact that it lives, five times a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rumormill.membership.record import Address, Liveness, Readiness
from rumormill.membership.view import Connectivity, Event, Member, PoolView
from rumormill.simulations import NodeStart

PERIOD = 0.2


class Toy:
    """Sends ``name`` and a count to its contacts each period; remembers what arrived, and when."""

    def __init__(self, start: NodeStart) -> None:
        self.start = start
        self.deadline = start.now
        self.stopped: str | None = None
        self.has_left = False
        self.joined = True
        self.table_digest = 0
        self.heard: list[tuple[float, bytes, Address]] = []
        self.refused: list[tuple[bytes, Address]] = []
        self.timers: list[float] = []
        self._seeds: list[Address] = []
        self._outbox: list[tuple[Address, bytes]] = []
        self._events: list[Event] = []
        self._known: set[bytes] = set()
        self._count = 0

    @property
    def view(self) -> PoolView:
        names = sorted({data.split()[0].decode() for _, data, _ in self.heard} | {self.start.name})
        return PoolView("toys", self.start.name, Connectivity.CONNECTED, tuple(self._member(name) for name in names))

    def _member(self, name: str) -> Member:
        address = self.start.address
        fields = (name, 1, bytes(16), 0, address, "toy", "", "", "", 1000, Readiness.PASSING, {}, Liveness.ALIVE)
        return Member(*fields, False, 0.0, "")

    def set_seeds(self, addresses: Iterable[Address]) -> None:
        self._seeds = [address for address in addresses if address != self.start.address]

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        if data not in self._known:
            self._known.add(data)
            self._events.append(Event(now, "heard", data.split()[0].decode(), f"heard {data.decode()}"))
        self.heard.append((now, data, source))
        if source not in self._seeds:
            self._seeds.append(source)

    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None:
        self.refused.append((datagram, address))

    def handle_timer(self, now: float) -> None:
        self.timers.append(now)
        if now < self.deadline:
            return
        self.deadline = now + PERIOD
        self._count += 1
        jitter = self.start.token_bytes(2).hex()
        for address in self._seeds:
            self._outbox.append((address, f"{self.start.name} {self._count} {jitter}".encode()))

    def datagrams_to_send(self) -> list[tuple[Address, bytes]]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def take_events(self) -> Sequence[Event]:
        events, self._events = self._events, []
        return events

    def leave(self, now: float) -> None:
        self.has_left = True
