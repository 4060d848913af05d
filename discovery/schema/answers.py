"""The JSON answers of this endpoint, apart from workers (workers.py). /openapi.json is generated from these."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rumormill.membership.view import ConnectivityWord
from rumormill.ring.worker import LivenessWord, ReadinessWord, Worker


class PoolAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/pool``: the capacity, and how much of it may fail."""

    cluster: str
    service: str
    index: int
    process: str
    isolated: bool
    workers: int
    """Alive or suspect, in every readiness."""
    routable: int
    """How many of them take new work."""
    suspect: int
    """Routable workers that callers try last."""
    capacity: float
    """The sum of the weights of the routable workers; 1.0 is one normal worker."""
    mean_utilization: float | None
    """Mean of the routable workers whose load is known, by weight; null if none is."""
    scale_out: bool | None
    """Whether more workers are wanted: true once the mean has been at 0.60 or more for 30 s, until it has been below
    0.50 for 30 s; null where no load is known."""
    failures_to_spare: int
    """How many routable workers may fail before only one is left. Suspects do not count: they may be dead already."""
    worst_utilization: float | None = None
    """The highest utilization of a routable worker; null if none is known."""
    known_utilizations: int = 0
    """Routable workers whose load is known."""
    may_fail: int | None = None
    """How many workers, the largest first, may fail now before the others exceed their capacity. Suspects are not
    counted as spare; null where no load is known."""


class LookupAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/lookup``."""

    key: str
    routing_digest: str
    """Equal digests mean the same owners in the same order."""
    owners: list[Worker]
    """In the order in which to try them: the ring's order, with suspects last. Suspicion does not change the digest."""
    unroutable: dict[str, str] = {}
    """Workers of the service that take no new work, by name, each with the reason; at most 32."""


class MemberRow(msgspec.Struct, frozen=True):
    """One member as this sidecar holds it, dead and left ones included."""

    name: str
    generation: int
    instance: str
    incarnation: int
    address: str
    """HOST:PORT of its gossip."""
    service: str
    url: str
    zone: str
    release: str
    weight: float
    liveness: LivenessWord
    readiness: ReadinessWord
    pending: bool
    """Whether it waits for its name to become free. It is not routed meanwhile."""
    routable: bool
    since: str
    why: str
    """How its liveness came about, in words."""
    misses: int
    """Consecutive misses counted here."""
    monitored: bool
    """Whether this sidecar is one of its monitors."""
    monitors: list[str]
    last_heard: float | None
    """Seconds since any sign of life reached this sidecar; null if never."""
    rtt: float | None
    """Seconds to it and back; null until measured."""
    tags: dict[str, str]
    probation: float | None = None
    """Seconds for which it still takes no new work because it has flapped; null where it has not."""
    period: float = 0.2
    """Seconds between two of its heartbeats."""
    unready: str = ""
    """Why its worker takes no new work, the same at every sidecar; empty if it does."""
    endpoint: str = ""
    """HOST:PORT of its discovery endpoint; empty if others cannot reach it, or if it speaks wire version 1."""
    wire: int = 1
    """The highest wire version that it speaks."""


def describe_shared_worker(names: Sequence[str], url: str) -> str:
    """Explains that several members name one worker, and what to do."""
    who = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{who} name the same worker, {url}: it gets the load of {len(names)}; run only one agent for it"


class MembersAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/members``."""

    cluster: str
    observer: str
    process: str
    isolated: bool
    members: list[MemberRow]
    connectivity: ConnectivityWord = "connected"
    """How this sidecar stands to the others: connected, isolated, deaf or mute."""
    connectivity_why: str = ""
    """What that means, in words; empty while connected."""


class EventRow(msgspec.Struct, frozen=True):
    """Something that happened, as this sidecar concluded it."""

    index: int
    """Counts this process's events, from 1."""
    at: str
    """By this sidecar's wall clock (RFC 3339, UTC)."""
    kind: str
    member: str
    text: str
    old: str = ""
    """The member's state before, like "alive, passing". Empty if its state has not changed, or was not known."""
    new: str = ""
    """Its state now."""
    reason: str = ""
    """Why the state has changed, where this sidecar knows."""


class EventsAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/events``: newest last; the last thousand are kept."""

    process: str
    index: int
    """The number of the newest event; 0 before the first."""
    events: list[EventRow]


class DrainAnswer(msgspec.Struct, frozen=True):
    draining: bool


class WeightAnswer(msgspec.Struct, frozen=True):
    weight: float
    """In force until the sidecar reads its settings again."""


class LeaveAnswer(msgspec.Struct, frozen=True):
    leaving: bool


class ReloadAnswer(msgspec.Struct, frozen=True):
    reloading: bool


class HealthAnswer(msgspec.Struct, frozen=True):
    """The answer of the health routes; with status 503 if it is not ok."""

    ok: bool
    why: str
    """Why it is not ok; empty when it is."""


class RouteRow(msgspec.Struct, frozen=True):
    method: str
    path: str
    summary: str


class IndexAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /``: the list of routes."""

    program: str
    description: str
    routes: list[RouteRow]
