"""Records what every sidecar of a pool answers, and when that changed, through one ``GET /v1/watch`` stream each.

Times are :func:`time.monotonic` of this process at the arrival of an answer. So a kill and the eviction are measured on
the same clock, and the result is what a caller would have seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import httpx2
import msgspec
import trio

from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.worker import Worker

Condition = Callable[[WorkersAnswer], bool]
State = Literal["alive", "suspect", "gone"]

_RETRY_SECONDS = 0.02
"""Seconds between attempts to reach a sidecar that is down: a small part of the time that a restart takes."""


class ConditionNotMet(Exception):
    """A condition was not met at every sidecar in time; the text says at which."""


@dataclass(frozen=True, slots=True)
class LivenessChange:
    """A member's liveness changed in one sidecar's answers."""

    at: float
    observer: str
    member: str
    instance: str
    state: State


class PoolWatch:
    """Follows the sidecars at these addresses. ``run`` does so until cancelled; the other methods query the result."""

    def __init__(self, observers: Mapping[str, str], service: str) -> None:
        self.observers = dict(observers)
        self.service = service
        self.answers: dict[str, WorkersAnswer] = {}
        """The latest answer of each sidecar that can be reached."""
        self.changes: list[LivenessChange] = []
        self._since: dict[str, float] = {}
        self._changed = trio.Event()
        self._decoder = msgspec.json.Decoder(WorkersAnswer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow all sidecars forever, and reconnect to those that are down."""
        # The answers come over loopback, so certificates (20 ms to load) are not verified.
        client = httpx2.AsyncClient(verify=False, timeout=httpx2.Timeout(None, connect=1.0))
        async with client, trio.open_nursery() as nursery:
            for name, url in self.observers.items():
                nursery.start_soon(self._follow, client, name, url)
            task_status.started()

    async def _follow(self, client: httpx2.AsyncClient, observer: str, url: str) -> None:
        while True:
            try:
                async with client.stream("GET", f"{url}/v1/watch", params={"service": self.service}) as response:
                    response.raise_for_status()
                    async for line in response.aiter_lines():
                        if line.startswith("data:"):
                            self._record(observer, self._decoder.decode(line[5:]), time.monotonic())
            except httpx2.HTTPError:
                pass  # down, or not up yet
            if self.answers.pop(observer, None) is not None:
                self._notify()
            await trio.sleep(_RETRY_SECONDS)

    def _record(self, observer: str, answer: WorkersAnswer, now: float) -> None:
        before = self.answers.get(observer)
        self.answers[observer] = answer
        self._since[observer] = now
        self.changes += _liveness_changes(now, observer, before.workers if before else [], answer.workers)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, observers: Iterable[str], test: Condition, what: str, within: float) -> float:
        """The time at which the last of these sidecars met the condition (perhaps before this call).

        Raises :class:`ConditionNotMet` after ``within`` seconds, with ``what`` and the sidecars that did not meet it.
        """
        wanted = tuple(observers)
        passed: dict[str, float] = {}
        with trio.move_on_after(within):
            while True:
                for name in wanted:
                    answer = self.answers.get(name)
                    if answer is None or not test(answer):
                        passed.pop(name, None)
                    else:
                        passed.setdefault(name, self._since[name])
                if len(passed) == len(wanted):
                    return max(passed.values(), default=time.monotonic())
                await self._changed.wait()
        missing = [f"{name} ({self._answer_of(name)})" for name in wanted if name not in passed]
        raise ConditionNotMet(f"{what}: not seen within {within:g} s at {', '.join(missing)}")

    def _answer_of(self, observer: str) -> str:
        answer = self.answers.get(observer)
        if answer is None:
            return "not answering"
        return "says " + (", ".join(f"{w.name} {w.liveness} {w.readiness}" for w in answer.workers) or "no workers")

    def instance(self, member: str, observers: Iterable[str]) -> str:
        """The instance of a member, from the first of these sidecars that knows one.

        Raises :class:`ConditionNotMet` if none does.
        """
        for observer in observers:
            for worker in self.answers[observer].workers if observer in self.answers else ():
                if worker.name == member:
                    return worker.instance
        raise ConditionNotMet(f"no sidecar knows {member}")

    def suspicions(self, since: float, observers: Iterable[str], but: Iterable[str] = ()) -> list[ObservedSuspicion]:
        """Every suspicion since then at these sidecars, except of the members in ``but``; open ones last until now."""
        open_ones: dict[tuple[str, str], LivenessChange] = {}
        found: list[ObservedSuspicion] = []
        wanted, left_out = set(observers), set(but)
        for change in self.changes:
            if change.observer not in wanted or change.member in left_out or change.at < since:
                continue
            begun = open_ones.pop((change.observer, change.instance), None)
            if begun is not None:
                found.append(ObservedSuspicion.of(begun, change.at, ended=change.state))
            if change.state == "suspect":
                open_ones[change.observer, change.instance] = change
        now = time.monotonic()
        return found + [ObservedSuspicion.of(change, now, ended="suspect") for change in open_ones.values()]


@dataclass(frozen=True, slots=True)
class ObservedSuspicion:
    """One sidecar suspected one member."""

    observer: str
    member: str
    begun: float
    seconds: float
    ended: State
    """``alive``: refuted. ``gone``: evicted. ``suspect``: not ended yet."""

    @classmethod
    def of(cls, change: LivenessChange, until: float, ended: State) -> Self:
        return cls(change.observer, change.member, change.at, until - change.at, ended)


def _liveness_changes(
    now: float, observer: str, before: Iterable[Worker], after: Iterable[Worker]
) -> list[LivenessChange]:
    old = {worker.instance: worker for worker in before}
    new = {worker.instance: worker for worker in after}
    changed = [
        LivenessChange(now, observer, worker.name, instance, "suspect" if worker.liveness == "suspect" else "alive")
        for instance, worker in new.items()
        if instance not in old or old[instance].liveness != worker.liveness
    ]
    return changed + [LivenessChange(now, observer, old[i].name, i, "gone") for i in old if i not in new]


def everyone_routable(names: Iterable[str]) -> Condition:
    """All of these members, and no others, are alive and routable."""
    wanted = sorted(names)

    def test(answer: WorkersAnswer) -> bool:
        return sorted(w.name for w in answer.workers if w.routable and w.liveness == "alive") == wanted

    return test


def evicted(instance: str) -> Condition:
    """The instance is no longer alive or suspect."""
    return lambda answer: all(worker.instance != instance for worker in answer.workers)


def unroutable(instance: str) -> Condition:
    """Callers send no new work to the instance."""
    return lambda answer: not any(worker.instance == instance and worker.routable for worker in answer.workers)


def routable(member: str, but: str = "") -> Condition:
    """The member is alive and routable; with ``but``, as another instance than that."""
    return lambda answer: any(
        worker.name == member and worker.instance != but and worker.routable and worker.liveness == "alive"
        for worker in answer.workers
    )
