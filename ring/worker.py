"""A worker as callers see it, and its JSON.

The same structure is written by the discovery endpoint and read by the client library, so the two cannot drift apart.
Field names and their order are a contract; JSON is what :func:`msgspec.json.encode` makes of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

LivenessWord = Literal["alive", "suspect", "dead", "left"]
ReadinessWord = Literal["starting", "passing", "warning", "critical", "draining"]


class Worker(msgspec.Struct, frozen=True):
    """One worker of the pool."""

    name: str
    generation: int
    instance: str
    """32 hexadecimal digits."""
    service: str
    url: str
    zone: str
    release: str
    weight: float
    """1.0 is a normal worker; three decimals."""
    liveness: LivenessWord
    readiness: ReadinessWord
    utilization: float | None
    tags: dict[str, str]
    since: str
    """When liveness or readiness last changed, by the answering sidecar's wall clock (RFC 3339, UTC). For display."""
    address: str = ""
    """HOST:PORT of its sidecar's gossip; empty where it is not known."""
    probation_until: str = ""
    """Until when it takes no new work because it has flapped, by the same clock; empty where it has not."""

    @property
    def routable(self) -> bool:
        """Whether the ring holds it: alive or suspect, passing or warning, weighted above zero."""
        return self.liveness in ("alive", "suspect") and self.readiness in ("passing", "warning") and self.weight > 0


class CanaryShare(msgspec.Struct, frozen=True):
    """A release that gets a share of the keys of its own, whatever its workers weigh."""

    release: str
    share: float
    """0 to 1, four decimals. At 0 it gets none, which is not the same as being no candidate."""


class RoutingPolicy(msgspec.Struct, frozen=True):
    """Pool policy for one service, as callers see it."""

    index: int = 0
    canary: list[CanaryShare] = []
    """In the order in which they became candidates: a new one belongs at the end, and one that is changed or set to 0
    stays where it is, so that nobody else's keys move (traffic_split.py)."""
    zone: str = ""
    """The zone preferred by callers that name none of their own."""


class WorkersAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/workers``, and the data of each event of ``GET /v1/watch``."""

    cluster: str
    service: str
    index: int
    """Counts this process's changes of the answer; never below 1."""
    process: str
    """Which run of the sidecar counts: an index of another process means nothing here."""
    routing_digest: str
    """16 hexadecimal digits; equal digests mean equal owners for every key."""
    isolated: bool
    policy: RoutingPolicy
    workers: list[Worker]
