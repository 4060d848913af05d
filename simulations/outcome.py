"""What a run came to, as data: written by the referee, kept as JSON, put into tables and pages."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from rumormill.simulations.timeline import Timeline


class Detection(msgspec.Struct, frozen=True):
    """One death, and when each survivor had evicted the member. Seconds after the crash, sorted."""

    member: str
    at: float
    """Seconds since the world began."""
    survivors: int
    delays: tuple[float, ...]

    @property
    def first(self) -> float | None:
        return self.delays[0] if self.delays else None

    @property
    def everywhere(self) -> float | None:
        """When the last survivor knew; None if one never did."""
        return self.delays[-1] if len(self.delays) >= self.survivors > 0 else None


class Block(msgspec.Struct, frozen=True):
    """One freeze of one member: who evicted it for that, and how long after its end all had it back."""

    member: str
    seconds: float
    evicted_by: int
    """Observers that evicted it, from its beginning to the next one's."""
    evictions: int
    """By all of them together: more than ``evicted_by`` if one did so twice."""
    free: float
    """Seconds that it ran before the next freeze or the end of the run; 0 if it was never thawed."""
    back_after: float | None
    """Seconds after its end; None if nobody missed it, or not everybody had it back while it was free."""
    missing: int
    """Observers that still lacked it when it was frozen again, or at the end of the run."""


class FalseEviction(msgspec.Struct, frozen=True):
    """An eviction of a member that was well."""

    at: float
    observer: str
    member: str
    observer_well: bool


class Traffic(msgspec.Struct, frozen=True):
    """One virtual second of the whole pool. Bytes are UDP payload."""

    at: float
    members: int
    datagrams: int
    bytes: int
    most_datagrams: int
    """Sent by the busiest member."""


class RunOutcome(msgspec.Struct, frozen=True):
    """Everything that was measured in one run of one scenario."""

    scenario: str
    protocol: str
    nodes: int
    seed: int
    seconds: float
    """Virtual."""
    detections: tuple[Detection, ...]
    blocks: tuple[Block, ...]
    wrong: tuple[FalseEviction, ...]
    evictions: int
    """By anyone, about anyone."""
    suspicions: int
    joined_after: float | None
    """Seconds from the first start to one view of all who were started with it."""
    heals: tuple[float | None, ...]
    """For each time the network was healed: seconds to one view, None if something else came first."""
    one_view_after: float | None
    """Seconds of calm at the end until one view; None if it did not come to one."""
    traffic: tuple[Traffic, ...]
    steady: tuple[float, float]
    """Datagrams and bytes a second and node, median over the seconds in which nothing happened."""
    trace: str
    raster: Timeline | None = None
    """Who believed what, when; for small pools only."""

    @property
    def detection_delays(self) -> list[float]:
        """Every survivor's delay, of all deaths."""
        return sorted(delay for detection in self.detections for delay in detection.delays)


def quantile(values: Iterable[float], share: float) -> float | None:
    """The value below which that share lies; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float]) -> float | None:
    ordered = list(values)
    return statistics.median(ordered) if ordered else None
