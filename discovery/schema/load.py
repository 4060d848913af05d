"""The JSON answers about load and draining. /openapi.json is generated from these."""

from __future__ import annotations

import msgspec


class LoadRow(msgspec.Struct, frozen=True):
    """One worker's load. A worker whose load is unknown has none."""

    name: str
    instance: str
    utilization: float
    """1.0 is a worker that is full; three decimals."""
    queue: int
    """Requests that wait inside the worker."""
    age: float
    """Seconds since its member last stated it. A figure holds until another is stated, so a great age only means that
    the load has not moved."""


class LoadAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/load``."""

    service: str
    index: int
    """Counts this process's changes of any load. It is not the index of the workers."""
    process: str
    loads: list[LoadRow]


class DrainState(msgspec.Struct, frozen=True):
    """How far the draining of this sidecar's worker has come."""

    draining: bool
    drained: bool
    """Whether the worker has nothing more to finish, as far as its source can tell."""
    under_way: int | None
    """Requests that the worker still has; null if nobody counts them."""
    source: str
    """Who counts: ``engine`` (the worker's own metrics), ``clients`` (what callers report), or ``time`` (nobody: the
    worker has ``drain-time``)."""
    since: float | None
    """Seconds since the draining began; null while it does not drain."""
    time_left: float
    """Seconds that the worker keeps at least; 0 once they are over."""
