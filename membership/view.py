"""What the rest of the sidecar sees of the pool: frozen, sorted by name, without protocol internals."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import USUAL_PERIOD, Address, InstanceId, Liveness, Readiness

ConnectivityWord = Literal["connected", "isolated", "deaf", "mute"]


class Connectivity(enum.Enum):
    """A member's connectivity to the others. In every state but the first the member is *isolated*: it shows what it
    last knew and evicts nobody, and callers should ask another sidecar."""

    CONNECTED = "connected"
    ISOLATED = "isolated"
    """Too many other members are missing at once."""
    DEAF = "deaf"
    """It receives nothing from any other member."""
    MUTE = "mute"
    """No other member receives what it sends."""

    @property
    def word(self) -> ConnectivityWord:
        return self.value

    @property
    def words(self) -> str:
        """What the state means, for people. Empty while connected."""
        return _WORDS[self]


_WORDS = {
    Connectivity.CONNECTED: "",
    Connectivity.ISOLATED: "too many of the others are missing at once: this member may be the one that is cut off",
    Connectivity.DEAF: "none of the others is heard: they are gone, or what they send does not arrive here",
    Connectivity.MUTE: "the others hold this member dead: they do not hear it",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member as its observer knows it. Equal members look equal to every caller."""

    name: str
    generation: int
    instance: InstanceId
    incarnation: int
    address: Address
    service: str
    url: str
    zone: str
    release: str
    weight: int
    """In thousandths of a normal worker."""
    readiness: Readiness
    tags: Mapping[str, str]
    liveness: Liveness
    pending: bool
    """It waits for its name to become free. It is not routed."""
    since: float
    """When liveness or readiness last changed here, in seconds on the observer's clock."""
    why: str
    """The reason for the present liveness, in words ("3 misses seen by w1, w5")."""
    probation_ends: float | None = None
    """When its flap probation ends, in seconds on the observer's clock; None for none."""
    period: float = USUAL_PERIOD / 1000
    """Seconds between its heartbeats."""
    wire: int = 1
    """The highest wire version that it speaks."""
    unready: str = ""
    """Why its worker takes no new work, in its sidecar's words; empty if it does, or if it speaks wire version 1."""
    endpoint: int = 0
    """The port of its discovery endpoint; 0 if others cannot reach it."""

    @property
    def routable(self) -> bool:
        """Whether the ring includes it: alive or suspect, settled, ready, and weighted above zero."""
        return self.liveness.present and not self.pending and self.readiness.routable and self.weight > 0


@dataclass(frozen=True, slots=True)
class PoolView:
    """Everything the observer knows at one moment, dead and left members included."""

    cluster: str
    observer: str
    connectivity: Connectivity
    members: tuple[Member, ...]
    """Sorted by name. A settled member precedes a pending one of the same name."""
    policies: tuple[PolicyRecord, ...] = ()
    """Sorted by service and kind."""

    @property
    def isolated(self) -> bool:
        return self.connectivity is not Connectivity.CONNECTED


@dataclass(frozen=True, slots=True)
class MemberDetail:
    """Details for operators, read at the moment of the request. No change here changes an index or a digest."""

    misses: int
    """Consecutive misses that this observer counts; 0 for a member that it does not monitor."""
    monitored: bool
    """Whether this observer is one of its monitors."""
    monitors: tuple[str, ...]
    """Names of its monitors, as computed by this observer."""
    last_heard: float | None
    """Seconds since the last sign of life reached this observer; None if there was none."""
    rtt: float | None
    """Smoothed round-trip time of a ping and its ack, in seconds; None until measured."""
    probation: float | None = None
    """Remaining seconds of its flap probation, in which it takes no new work; None for none."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened in the pool, as concluded by this observer."""

    at: float
    """Seconds on the observer's clock."""
    kind: str
    """joined, suspected, refuted, evicted, left, returned, updated, isolated, rejoined, paused, taken …"""
    member: str
    text: str
    """A whole sentence: "w3 evicted: 3 misses seen by w1, w5"."""
    old: str = ""
    """The member's state before: "alive, passing". Empty if its state has not changed, or nothing was known of it."""
    new: str = ""
    """Its state now."""
    reason: str = ""
    """Why the state has changed, where that is known."""

    @property
    def change(self) -> dict[str, str]:
        """What the log shows of a change of state."""
        return {"old": self.old, "new": self.new, "reason": self.reason} if self.new else {}
