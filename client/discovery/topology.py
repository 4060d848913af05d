"""What the pool believes about its workers, and which sidecar it believes. Pure.

The rules:

- A source votes while it answers and belongs to the pool's cluster (clusters.py). A source that has failed has no vote
  until it answers again.
- Isolated sources are believed only if no other source answers: their view is frozen on purpose.
- Among the others, the routing digest with most votes wins. In a tie, the source whose answer changed last is believed,
  because a frozen sidecar still shows its old answer. Views are never merged: a mixture has an owner order that no
  sidecar has.
- A sidecar that has just restarted knows itself before it knows the pool. While it is new and names less than half of
  the workers believed so far, it is not believed.
- If no source answers, the last topology stays, and its age is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.routing import Routing
from rumormill.ring.worker import RoutingPolicy, Worker

WorkerEndpoint = tuple[str, str]
"""Name and URL: where requests go. When a sidecar restarts, its instance changes, but the worker beside it does not."""
Origin = Literal["nobody", "sidecar", "snapshot"]

RESTART_GRACE = 5.0
"""Seconds that a restarted sidecar has to join. After that, even a short list of its is believed."""
DEPARTED_KEPT = 300.0
"""Seconds that an evicted worker is kept as a last resort: perhaps only its sidecar died."""
MAX_DEPARTED = 64
NOT_ASKED = "not asked yet"
_SHOWN = 8


def endpoint_of(worker: Worker) -> WorkerEndpoint:
    return (worker.name, worker.url)


@dataclass(slots=True)
class SidecarSource:
    """One sidecar, and its last answer. Times are on the pool's clock, in seconds."""

    url: str
    answer: WorkersAnswer | None = None
    answering: bool = False
    trouble: str = NOT_ASKED
    confirmed: float = 0.0
    """When it last answered."""
    changed: float = 0.0
    """When its answer last changed."""
    restarted_at: float | None = None
    """When it first answered as another process than before."""

    def record_answer(self, answer: WorkersAnswer, now: float) -> bool:
        """Record an answer. Returns whether it says anything new."""
        before = self.answer
        if before is not None and before.process != answer.process:
            self.restarted_at = now
        revived = not self.answering
        self.answering, self.trouble, self.confirmed = True, "", now
        if before is not None and (before.process, before.index) == (answer.process, answer.index):
            return revived
        self.answer, self.changed = answer, now
        return True

    def record_failure(self, trouble: str) -> None:
        """It did not answer, and has no vote until it does. `trouble` says why, for people."""
        self.answering, self.trouble = False, trouble

    def just_restarted(self, now: float) -> bool:
        """Whether it may still be joining."""
        return self.restarted_at is not None and now - self.restarted_at < RESTART_GRACE


@dataclass(frozen=True, slots=True)
class Topology:
    """What the pool believes at one moment. A change replaces it as a whole."""

    service: str
    routing: Routing = field(compare=False)
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)
    workers: tuple[Worker, ...] = ()
    """Alive and suspect workers, in every readiness, sorted by name."""
    departed: tuple[tuple[float, Worker], ...] = ()
    """Recently evicted workers with the time of their eviction, newest first. They are the last resort."""
    cluster: str = ""
    isolated: bool = False
    source: str = ""
    """URL of the sidecar that is believed, or path of the snapshot."""
    origin: Origin = "nobody"
    heard: float = field(default=0.0, compare=False)
    """When this was last confirmed, on the pool's clock in seconds."""
    troubles: tuple[str, ...] = field(default=(), compare=False)
    """Why sources are not used, for people."""

    def describe(self, now: float) -> str:
        """One line for people, used in errors."""
        if self.origin == "nobody":
            return f"nothing is known about service {self.service!r}" + _listed(self.troubles, " (", ")")
        shown = [f"{w.name} {w.liveness}/{w.readiness}{'' if w.weight else ' weight 0'} {w.url}" for w in self.workers]
        known = f"known workers of service {self.service!r}: {len(shown)}" + _listed(shown, " (", ")")
        isolated = ", which is isolated" if self.isolated else ""
        heard = f", heard {max(now - self.heard, 0):.1f} s ago from {self.source}{isolated}"
        gone = _listed([worker.name for _, worker in self.departed], "; recently evicted: ", "")
        return known + heard + gone + _listed(self.troubles, "; ", "")


def _listed(items: Sequence[str], before: str, after: str) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return before + ", ".join(items[:_SHOWN]) + more + after if items else ""


def nothing_known(service: str) -> Topology:
    """The topology before any source has answered."""
    return Topology(service, Routing(service, ()))


def select_source(sources: Iterable[SidecarSource], current: Topology, now: float) -> SidecarSource | None:
    """The source to believe by the rules above. None keeps the current topology. All sources belong to one cluster."""
    answering = [
        (source, source.answer)
        for source in sources
        if source.answering and source.answer and not _still_joining(source, current, now)
    ]
    voters = [pair for pair in answering if not pair[1].isolated] or answering
    if not voters:
        return None
    votes = Counter(answer.routing_digest for _, answer in voters)
    return max(voters, key=lambda pair: (votes[pair[1].routing_digest], pair[0].changed))[0]


def _still_joining(source: SidecarSource, current: Topology, now: float) -> bool:
    return (
        source.just_restarted(now)
        and source.answer is not None
        and 2 * len(source.answer.workers) < len(current.workers)
    )


def stale_voters(sources: Iterable[SidecarSource]) -> list[SidecarSource]:
    """Sources whose older answer contradicts the newest one. They may be frozen, and should be asked again at once."""
    voters = [(s, s.answer) for s in sources if s.answering and s.answer and not s.answer.isolated]
    if not voters:
        return []
    newest, answer = max(voters, key=lambda pair: pair[0].changed)
    return [
        source
        for source, other in voters
        if other.routing_digest != answer.routing_digest and source.confirmed < newest.changed
    ]


def with_answer(current: Topology, answer: WorkersAnswer, *, source: str, origin: Origin, now: float) -> Topology:
    """The topology that an answer describes. If little has changed, its ring is made from the current one."""
    workers = tuple(sorted(answer.workers, key=lambda worker: (worker.name, worker.generation, worker.instance)))
    return Topology(
        service=current.service,
        routing=current.routing.updated(workers, answer.policy),
        policy=answer.policy,
        workers=workers,
        # The snapshot may be of another cluster than the sidecars, and its workers must then not be a last resort.
        departed=_departed(current, workers, now) if answer.cluster == current.cluster else (),
        cluster=answer.cluster,
        isolated=answer.isolated,
        source=source,
        origin=origin,
        heard=now,
        troubles=current.troubles,
    )


def _departed(current: Topology, workers: tuple[Worker, ...], now: float) -> tuple[tuple[float, Worker], ...]:
    names, urls = {worker.name for worker in workers}, {worker.url for worker in workers}
    # A draining member has left on purpose, and its worker is about to end too.
    gone = [(now, worker) for worker in current.workers if worker.readiness != "draining"]
    kept = [*gone, *(pair for pair in current.departed if now - pair[0] < DEPARTED_KEPT)]
    return tuple(one for one in kept if one[1].name not in names and one[1].url not in urls)[:MAX_DEPARTED]


def with_status(current: Topology, *, heard: float, troubles: tuple[str, ...]) -> Topology:
    """The same topology, confirmed again or with other troubles."""
    return replace(current, heard=heard, troubles=troubles)
