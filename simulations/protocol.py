"""What the world can drive: the verbs of Node, and how one is born.

The real Node has them; so has the baseline protocol the lab compares it with. Nothing in the world knows more of a
participant than this.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rumormill.membership.record import Address
from rumormill.membership.view import Event, PoolView


class SimulatedNode(Protocol):
    """A protocol core without I/O. The world calls its verbs as ``gossip.transport`` does."""

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
    """Everything a participant is given at its start."""

    name: str
    address: Address
    generation: int
    rng: random.Random
    token_bytes: Callable[[int], bytes]
    now: float
    """Seconds on its host's own clock."""


NodeFactory = Callable[[NodeStart], SimulatedNode]
