"""What every sidecar of a pool answers, and when it changed: one stream of ``GET /v1/watch`` each, one clock for all.

Times are :func:`time.monotonic` of this process, taken as an answer arrives: kill and eviction are measured on the same
clock, and what is measured is what a caller would have known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import httpx
import msgspec
import trio

from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.worker import Worker

Test = Callable[[WorkersAnswer], bool]
State = Literal["alive", "suspect", "gone"]

_RETRY_SECONDS = 0.02
"""Between attempts to reach a sidecar that is down: a small part of what a restart takes."""


class NotSeen(Exception):
    """What was waited for has not been seen at every sidecar in time; says where."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A member's liveness changed in one sidecar's answers."""

    at: float
    observer: str
    member: str
    instance: str
    state: State


class PoolWatch:
    """Follows the sidecars at the given addresses. ``run`` does it until cancelled; the rest asks what was seen."""

    def __init__(self, observers: Mapping[str, str], service: str) -> None:
        self.observers = dict(observers)
        self.service = service
        self.answers: dict[str, WorkersAnswer] = {}
        """The latest of each sidecar that can be reached."""
        self.turns: list[Turn] = []
        self._since: dict[str, float] = {}
        self._changed = trio.Event()
        self._decoder = msgspec.json.Decoder(WorkersAnswer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow all of them for ever; those that are down are tried again and again."""
        # The answers go over loopback, so certificates (20 ms to load) are never looked at.
        client = httpx.AsyncClient(verify=False, timeout=httpx.Timeout(None, connect=1.0))  # noqa: S501
        async with client, trio.open_nursery() as nursery:
            for name, url in self.observers.items():
                nursery.start_soon(self._follow, client, name, url)
            task_status.started()

    async def _follow(self, client: httpx.AsyncClient, observer: str, url: str) -> None:
        while True:
            try:
                async with client.stream("GET", f"{url}/v1/watch", params={"service": self.service}) as response:
                    response.raise_for_status()
                    async for line in response.aiter_lines():
                        if line.startswith("data:"):
                            self._take(observer, self._decoder.decode(line[5:]), time.monotonic())
            except httpx.HTTPError:
                pass  # down, or not up yet
            if self.answers.pop(observer, None) is not None:
                self._tell()
            await trio.sleep(_RETRY_SECONDS)

    def _take(self, observer: str, answer: WorkersAnswer, now: float) -> None:
        before = self.answers.get(observer)
        self.answers[observer] = answer
        self._since[observer] = now
        self.turns += _turns(now, observer, before.workers if before else [], answer.workers)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, observers: Iterable[str], test: Test, what: str, within: float) -> float:
        """The time at which the last of these sidecars came to pass the test (maybe already past).

        Raises :class:`NotSeen` after ``within`` seconds, naming ``what`` and where it was not seen.
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
        missing = [f"{name} ({self._told_by(name)})" for name in wanted if name not in passed]
        raise NotSeen(f"{what}: not seen within {within:g} s at {', '.join(missing)}")

    def _told_by(self, observer: str) -> str:
        answer = self.answers.get(observer)
        if answer is None:
            return "not answering"
        return "says " + (", ".join(f"{w.name} {w.liveness} {w.readiness}" for w in answer.workers) or "nobody is here")

    def instance(self, member: str, observers: Iterable[str]) -> str:
        """Which life of a member these sidecars hold; the first that holds one is believed.

        Raises :class:`NotSeen` where none does.
        """
        for observer in observers:
            for worker in self.answers[observer].workers if observer in self.answers else ():
                if worker.name == member:
                    return worker.instance
        raise NotSeen(f"no sidecar knows {member}")

    def suspicions(self, since: float, observers: Iterable[str], but: Iterable[str] = ()) -> list[Suspicion]:
        """Each time since then that one of these sidecars suspected a member other than ``but``, to its end or now."""
        open_ones: dict[tuple[str, str], Turn] = {}
        found: list[Suspicion] = []
        wanted, left_out = set(observers), set(but)
        for turn in self.turns:
            if turn.observer not in wanted or turn.member in left_out or turn.at < since:
                continue
            begun = open_ones.pop((turn.observer, turn.instance), None)
            if begun is not None:
                found.append(Suspicion.of(begun, turn.at, ended=turn.state))
            if turn.state == "suspect":
                open_ones[turn.observer, turn.instance] = turn
        now = time.monotonic()
        return found + [Suspicion.of(turn, now, ended="suspect") for turn in open_ones.values()]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One sidecar's doubt about one member."""

    observer: str
    member: str
    begun: float
    seconds: float
    ended: State
    """``alive``: refuted. ``gone``: evicted. ``suspect``: not ended yet."""

    @classmethod
    def of(cls, turn: Turn, until: float, ended: State) -> Self:
        return cls(turn.observer, turn.member, turn.at, until - turn.at, ended)


def _turns(now: float, observer: str, before: Iterable[Worker], after: Iterable[Worker]) -> list[Turn]:
    old = {worker.instance: worker for worker in before}
    new = {worker.instance: worker for worker in after}
    turned = [
        Turn(now, observer, worker.name, instance, "suspect" if worker.liveness == "suspect" else "alive")
        for instance, worker in new.items()
        if instance not in old or old[instance].liveness != worker.liveness
    ]
    return turned + [Turn(now, observer, old[i].name, i, "gone") for i in old if i not in new]


def everyone_routable(names: Iterable[str]) -> Test:
    """One view: all of these, and no others, alive and taking work."""
    wanted = sorted(names)

    def test(answer: WorkersAnswer) -> bool:
        return sorted(w.name for w in answer.workers if w.routable and w.liveness == "alive") == wanted

    return test


def evicted(instance: str) -> Test:
    """That life is neither alive nor suspect any more."""
    return lambda answer: all(worker.instance != instance for worker in answer.workers)


def unroutable(instance: str) -> Test:
    """Callers send that life nothing new."""
    return lambda answer: not any(worker.instance == instance and worker.routable for worker in answer.workers)


def routable(member: str, but: str = "") -> Test:
    """The member is alive and takes work; with ``but``, in another life than that."""
    return lambda answer: any(
        worker.name == member and worker.instance != but and worker.routable and worker.liveness == "alive"
        for worker in answer.workers
    )
