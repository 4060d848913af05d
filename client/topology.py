"""What the pool believes about its workers, and which sidecar it believes. Pure.

The rules:

- A source votes while it answers and is of the pool's cluster (clusters.py). One that has failed has no vote until it
  answers again.
- Isolated sources are believed only where no other answers: their view is frozen on purpose.
- Of the rest the one is believed whose routing digest most of them share; where votes are equal, the one whose answer
  changed last (a sidecar that froze still stands there with what it said before). Never a union: mixing two views makes
  an owner order that no sidecar has.
- A sidecar that has just restarted knows itself before it knows the pool. While it is new and names less than half of
  what is believed, it waits.
- When nobody answers, what was believed last stays believed, and its age is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.routing import Routing
from rumormill.ring.worker import RoutingPolicy, Worker

Place = tuple[str, str]
"""Name and URL: where requests go. A sidecar's restart changes its instance and not the worker that serves there."""
Origin = Literal["nobody", "sidecar", "snapshot"]

NEWBORN = 5.0
"""Seconds a restarted sidecar is given to join before its short list is taken at its word."""
DEPARTED_KEPT = 300.0
"""Seconds an evicted worker is remembered as a last resort: its sidecar may have died alone."""
MAX_DEPARTED = 64
NOT_ASKED = "not asked yet"
_SHOWN = 8


def place(worker: Worker) -> Place:
    return (worker.name, worker.url)


@dataclass(slots=True)
class SidecarSource:
    """One sidecar, and what it said last. Times are the pool's clock, in seconds."""

    url: str
    answer: WorkersAnswer | None = None
    answering: bool = False
    trouble: str = NOT_ASKED
    confirmed: float = 0.0
    """When it last answered."""
    changed: float = 0.0
    """When its answer last changed."""
    reborn: float | None = None
    """When it first answered as another process than before."""

    def take(self, answer: WorkersAnswer, now: float) -> bool:
        """An answer came in. True if it says something new."""
        before = self.answer
        if before is not None and before.process != answer.process:
            self.reborn = now
        revived = not self.answering
        self.answering, self.trouble, self.confirmed = True, "", now
        if before is not None and (before.process, before.index) == (answer.process, answer.index):
            return revived
        self.answer, self.changed = answer, now
        return True

    def fail(self, trouble: str) -> None:
        """It did not answer; it has no vote until it does. `trouble` says why, for people."""
        self.answering, self.trouble = False, trouble

    def newborn(self, now: float) -> bool:
        return self.reborn is not None and now - self.reborn < NEWBORN


@dataclass(frozen=True, slots=True)
class Topology:
    """What the pool believes, at one moment. Replaced whole whenever any of it changes."""

    service: str
    routing: Routing = field(compare=False)
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)
    workers: tuple[Worker, ...] = ()
    """Alive and suspect, in every readiness, sorted by name."""
    departed: tuple[tuple[float, Worker], ...] = ()
    """Lately evicted, with when, newest first: asked when nobody else is left."""
    cluster: str = ""
    isolated: bool = False
    source: str = ""
    """URL of the sidecar believed, or path of the snapshot."""
    origin: Origin = "nobody"
    heard: float = field(default=0.0, compare=False)
    """When this was last known to hold, on the pool's clock in seconds."""
    troubles: tuple[str, ...] = field(default=(), compare=False)
    """What keeps other sources from being heard, in words."""

    def describe(self, now: float) -> str:
        """One line for people and for errors."""
        if self.origin == "nobody":
            return f"nothing is known of service {self.service!r}" + _listed(self.troubles, " (", ")")
        shown = [f"{w.name} {w.liveness}/{w.readiness}{'' if w.weight else ' weight 0'} {w.url}" for w in self.workers]
        known = f"{len(shown)} of service {self.service!r} known" + _listed(shown, " (", ")")
        isolated = ", which is isolated" if self.isolated else ""
        heard = f", heard {max(now - self.heard, 0):.1f} s ago from {self.source}{isolated}"
        gone = _listed([worker.name for _, worker in self.departed], "; lately evicted: ", "")
        return known + heard + gone + _listed(self.troubles, "; ", "")


def _listed(items: Sequence[str], before: str, after: str) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return before + ", ".join(items[:_SHOWN]) + more + after if items else ""


def nothing_known(service: str) -> Topology:
    """What is believed before anyone has answered."""
    return Topology(service, Routing(service, ()))


def believed_source(sources: Iterable[SidecarSource], current: Topology, now: float) -> SidecarSource | None:
    """The source to believe, by the rules above; None where what is believed should stand. All are of one cluster."""
    answering = [
        (source, source.answer)
        for source in sources
        if source.answering and source.answer and not _early(source, current, now)
    ]
    voters = [pair for pair in answering if not pair[1].isolated] or answering
    if not voters:
        return None
    votes = Counter(answer.routing_digest for _, answer in voters)
    return max(voters, key=lambda pair: (votes[pair[1].routing_digest], pair[0].changed))[0]


def _early(source: SidecarSource, current: Topology, now: float) -> bool:
    return source.newborn(now) and source.answer is not None and 2 * len(source.answer.workers) < len(current.workers)


def stale_voters(sources: Iterable[SidecarSource]) -> list[SidecarSource]:
    """Those that contradict the newest answer with an older one, and may be frozen: worth asking again at once."""
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
    """The topology after an answer is believed. Its ring is made from the present one where little has changed."""
    workers = tuple(sorted(answer.workers, key=lambda worker: (worker.name, worker.generation, worker.instance)))
    return Topology(
        service=current.service,
        routing=current.routing.updated(workers, answer.policy),
        policy=answer.policy,
        workers=workers,
        # A snapshot's cluster may prove to be another than that of the sidecars.
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
    # One that was draining has left on purpose, and its worker is on its way out too.
    gone = [(now, worker) for worker in current.workers if worker.readiness != "draining"]
    kept = [*gone, *(pair for pair in current.departed if now - pair[0] < DEPARTED_KEPT)]
    return tuple(one for one in kept if one[1].name not in names and one[1].url not in urls)[:MAX_DEPARTED]


def with_status(current: Topology, *, heard: float, troubles: tuple[str, ...]) -> Topology:
    """The same beliefs, heard again or with other troubles."""
    return replace(current, heard=heard, troubles=troubles)
