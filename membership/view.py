"""What the rest of the sidecar sees of the pool: frozen, sorted by name, and free of the protocol's inner workings."""

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
    """How a member stands to the others. In all but the first it is *isolated*: it shows what it last knew, judges
    nobody, and a caller had better ask another."""

    CONNECTED = "connected"
    ISOLATED = "isolated"
    """Too many of the others are missing at once."""
    DEAF = "deaf"
    """It hears nobody."""
    MUTE = "mute"
    """Nobody hears it."""

    @property
    def word(self) -> ConnectivityWord:
        return self.value

    @property
    def words(self) -> str:
        """What that means, for people; nothing where all is well."""
        return _WORDS[self]


_WORDS = {
    Connectivity.CONNECTED: "",
    Connectivity.ISOLATED: "too many of the others are missing at once: this member may be the one that is cut off",
    Connectivity.DEAF: "none of the others is heard: they are gone, or what they send does not arrive here",
    Connectivity.MUTE: "the others hold this member dead: they do not hear it",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member as its observer holds it. Equal members look equal to every caller."""

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
    """Waits for its name to become free; never routed."""
    since: float
    """Seconds on the observer's own clock: when liveness or readiness last changed here."""
    why: str
    """How the present liveness came about, in words ("3 misses seen by w1, w5")."""
    probation_ends: float | None = None
    """Seconds on the observer's own clock: until then it takes no new work because it has flapped; None if on none."""
    period: float = USUAL_PERIOD / 1000
    """Seconds between two of its heartbeats."""

    @property
    def routable(self) -> bool:
        """Alive or suspect, settled, ready, and weighted above zero: what the ring is made of."""
        return self.liveness.present and not self.pending and self.readiness.routable and self.weight > 0


@dataclass(frozen=True, slots=True)
class PoolView:
    """Everything the observer holds, dead and left members included, at one moment."""

    cluster: str
    observer: str
    connectivity: Connectivity
    members: tuple[Member, ...]
    """Sorted by name; a settled member stands before a pending one of the same name."""
    policies: tuple[PolicyRecord, ...] = ()
    """Sorted by service and kind."""

    @property
    def isolated(self) -> bool:
        return self.connectivity is not Connectivity.CONNECTED


@dataclass(frozen=True, slots=True)
class MemberDetail:
    """What only an operator asks for, read at the moment of asking: nothing here moves an index or a digest."""

    misses: int
    """Consecutive misses this observer counts; 0 for a member it does not monitor."""
    monitored: bool
    """Whether this observer is one of its monitors."""
    monitors: tuple[str, ...]
    """Names of its monitors, as this observer computes them."""
    last_heard: float | None
    """Seconds ago that any sign of life reached this observer; None if never."""
    rtt: float | None
    """Seconds for a ping and its ack, smoothed; None until measured."""
    probation: float | None = None
    """Seconds for which it still takes no new work because it has flapped; None if on none."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened in the pool, as this observer concluded it."""

    at: float
    """Seconds on the observer's own clock."""
    kind: str
    """joined, suspected, refuted, evicted, left, returned, updated, isolated, rejoined, paused, taken …"""
    member: str
    text: str
    """The whole sentence: "w3 evicted: 3 misses seen by w1, w5"."""
