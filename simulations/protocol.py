"""The interface of a simulated member: the methods of Node, and how a Node is made.

The production Node has it, and so has the baseline protocol. The world uses nothing else of a member.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rumormill.membership.record import Address
from rumormill.membership.view import Event, PoolView


class SimulatedNode(Protocol):
    """A protocol core without I/O. The world calls its methods as ``gossip.udp.transport`` does."""

    @property
    def deadline(self) -> float: ...
    @property
    def view(self) -> PoolView: ...
    @property
    def stopped(self) -> str | None: ...
    @property
    def has_left(self) -> bool: ...
    @property
    def joined(self) -> bool: ...
    @property
    def table_digest(self) -> int: ...

    def set_seeds(self, addresses: Iterable[Address]) -> None: ...
    def receive_datagram(self, data: bytes, source: Address, now: float) -> None: ...
    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None: ...
    def handle_timer(self, now: float) -> None: ...
    def datagrams_to_send(self) -> list[tuple[Address, bytes]]: ...
    def take_events(self) -> Sequence[Event]: ...
    def leave(self, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeStart:
    """Everything a member is given at its start."""

    name: str
    address: Address
    generation: int
    rng: random.Random
    token_bytes: Callable[[int], bytes]
    now: float
    """Seconds on its host's clock."""


NodeFactory = Callable[[NodeStart], SimulatedNode]
