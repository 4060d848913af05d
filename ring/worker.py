"""What the ring is made of: workers as callers see them, and the policy that routes to them.

The discovery endpoint writes these structures as JSON and the client library reads them, inside the answers of
discovery/schema. Field names and their order are a contract.
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
    """1.0 is full; null where it is unknown. Not part of any index, ETag or digest."""
    tags: dict[str, str]
    since: str
    """When liveness or readiness last changed, by the answering sidecar's wall clock (RFC 3339, UTC). For display."""
    address: str = ""
    """HOST:PORT of its sidecar's gossip; empty where it is not known."""
    probation_until: str = ""
    """Until when it takes no new work because it has flapped, by the same clock; empty where it has not."""
    queue: int | None = None
    """Requests that wait inside the worker; null where its load is unknown."""
    load_at: str = ""
    """When its member stated this utilization and queue, by the same clock; empty where they are unknown."""

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
    """The greatest version of the service's policies; 0 if there is none."""
    canary: list[CanaryShare] = []
    """The candidates in the order in which they were added. A candidate whose share changes, even to 0, keeps its
    place, so that the keys of the others do not move (traffic_split.py)."""
    zone: str = ""
    """The zone preferred by callers that name none of their own."""
