"""What the endpoint may ask of the sidecar, and the one thing it may make it do.

Discovery changes nothing by itself: every effect passes through this protocol, which the sidecar implements. All verbs
are synchronous, return at once, and are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from rumormill.membership.view import MemberDetail
from rumormill.ring.worker import ReadinessWord

SettingValue = str | int | float | bool | list[str] | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``GET /v1/status``: this sidecar, seen from inside. Secrets never stand in it."""

    name: str
    cluster: str
    service: str
    process: str
    """Which run of the sidecar this is; the one that indexes count in."""
    generation: int
    instance: str
    """32 hexadecimal digits."""
    gossip: str
    """HOST:PORT the others reach this sidecar at."""
    readiness: ReadinessWord
    draining: bool
    joined: bool
    """Whether it knows of any other member."""
    isolated: bool
    """Whether it hears too few of the others to conclude anything about them."""
    stopped: str | None
    """Why it fell silent (its name is taken, and by whom); null while it runs."""
    peers: int
    """Other members held alive."""
    table_digest: str
    """16 hexadecimal digits; equal where members know the same."""
    seal: str
    """``aes-256-gcm`` or ``plaintext``."""
    keys: int
    """Keys that open what others seal; 0 in plaintext."""
    loop_lag: float
    """Seconds the loop came late to its last deadline."""
    counters: dict[str, int]
    """Datagrams sent, received, dropped by reason, and so on, since the start."""
    settings: dict[str, SettingValue]
    """What is in force, wherever it came from; paths in place of what is secret."""


class Commands(Protocol):
    """The sidecar, as the endpoint may use it."""

    def details(self) -> Mapping[bytes, MemberDetail]:
        """Each member's detail by instance, read now."""
        ...

    def status(self) -> Status:
        """This sidecar, read now."""
        ...

    def unready(self) -> str | None:
        """Why no new work should be sent here, in words ("the worker is draining"); None when it may."""
        ...

    def drain(self) -> None:
        """Take this worker out of new work; what it has begun, it ends."""
        ...

    def undrain(self) -> None:
        """Put it back as soon as its check passes. Does nothing once leaving has begun."""
        ...

    def leave(self) -> None:
        """Begin to leave the pool for good. The sidecar closes the endpoint when that is said."""
        ...
