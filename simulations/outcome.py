"""The outcome of a run, as data: measured by the recorder, stored as JSON, shown in tables and reports."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from rumormill.simulations.timeline import Timeline


class Detection(msgspec.Struct, frozen=True):
    """One crash. ``delays`` holds the seconds until each survivor had evicted the member, sorted."""

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
        """Seconds until the last survivor knew; None if one never did."""
        return self.delays[-1] if len(self.delays) >= self.survivors > 0 else None


class Block(msgspec.Struct, frozen=True):
    """One freeze of one member: who evicted it, and how soon after the freeze all members held it alive again."""

    member: str
    seconds: float
    evicted_by: int
    """Observers that evicted it between the start of this freeze and the next."""
    evictions: int
    """Evictions by all observers. More than ``evicted_by`` if one observer evicted it twice."""
    free: float
    """Seconds that it ran before the next freeze or the end of the run; 0 if it never resumed."""
    back_after: float | None
    """Seconds from the end of the freeze until all held it alive. None if no one lacked it, or not all did in time."""
    missing: int
    """Observers that lacked it at the next freeze, or at the end of the run."""


class FalseEviction(msgspec.Struct, frozen=True, rename={"observer_healthy": "observer_well"}):
    """An eviction of a healthy member."""

    at: float
    observer: str
    member: str
    observer_healthy: bool


class TrafficSecond(msgspec.Struct, frozen=True):
    """One virtual second of the whole pool. Bytes are UDP payload."""

    at: float
    members: int
    datagrams: int
    bytes: int
    most_datagrams: int
    """Datagrams sent by the busiest member."""


class RunOutcome(msgspec.Struct, frozen=True, rename={"false_evictions": "wrong", "timeline": "raster"}):
    """All measurements of one run of one scenario."""

    scenario: str
    protocol: str
    nodes: int
    seed: int
    seconds: float
    """Virtual seconds."""
    detections: tuple[Detection, ...]
    blocks: tuple[Block, ...]
    false_evictions: tuple[FalseEviction, ...]
    evictions: int
    """All evictions, by any observer of any member."""
    suspicions: int
    joined_after: float | None
    """Seconds from the first start until all members started with it hold one view."""
    heals: tuple[float | None, ...]
    """For each heal of the network: seconds to one view. None if another operation came first."""
    one_view_after: float | None
    """Seconds from the end of the story to one view; None if there was none in time."""
    traffic: tuple[TrafficSecond, ...]
    steady: tuple[float, float]
    """Datagrams and bytes per second and node: the median over undisturbed seconds."""
    trace: str
    timeline: Timeline | None = None
    """The state of each member over time; for small pools only."""

    @property
    def detection_delays(self) -> list[float]:
        """Every survivor's delay, for all crashes."""
        return sorted(delay for detection in self.detections for delay in detection.delays)


def quantile(values: Iterable[float], share: float) -> float | None:
    """The value below which that share of the values lies; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float]) -> float | None:
    ordered = list(values)
    return statistics.median(ordered) if ordered else None
