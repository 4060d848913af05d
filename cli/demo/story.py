"""The acts of the demo: what is done to the pool, what is waited for, and what is promised of it.

Each act lasts its time and no longer than it takes to see what it is about; what it promises is judged by what the
sidecars still alive answer, on this process's clock, and by what the caller met with meanwhile.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from rumormill.cli.demo.lateness import Lateness
from rumormill.cli.demo.pool_watch import NotSeen, PoolWatch, Test, everyone_routable, evicted, routable, unroutable
from rumormill.cli.demo.processes import LocalPool, ProcessEnded, Program
from rumormill.cli.demo.request_log import RequestLog, figures, slowest_late
from rumormill.cli.demo.verdict import ActReport, DemoVerdict, FactPromise, Promise, TimePromise, duration

KILL_SLOWEST = 0.100
FREEZE_SLOWEST = 0.400
EVICTED_WITHIN = 0.85
BACK_WITHIN = 1.0
DRAINED_WITHIN = 0.1
PATIENCE_SECONDS = 5.0
"""How long anything is waited for before it counts as not seen."""


class Audience(Protocol):
    """Whoever follows the story: a live screen, a log, nobody."""

    def begins(self, act: Act) -> None: ...

    def notes(self, text: str) -> None: ...

    def ends(self, report: ActReport) -> None: ...


@dataclass(slots=True)
class Act:
    """One act, while it plays."""

    name: str
    title: str
    number: int
    begun: float
    lateness: Lateness = field(default_factory=lambda: Lateness.from_now(()))
    """Counted from its beginning."""
    promises: list[Promise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Script:
    name: str
    title: str
    seconds: float
    play: Callable[[Act], Awaitable[None]]


class DemoStory:
    """Three members, w1 to w3, and what happens to each of them."""

    def __init__(
        self, pool: LocalPool, watch: PoolWatch, ledger: RequestLog, audience: Audience, *, pace: float, patience: float
    ) -> None:
        """``pace`` stretches the acts (1.0: 25 s in all); ``patience`` is for a model server's start, in seconds."""
        self.pool = pool
        self.watch = watch
        self.ledger = ledger
        self.audience = audience
        self.pace = pace
        self.patience = patience
        self.verdict = DemoVerdict()
        self.doing = dict.fromkeys(pool.members, "starting")
        """What has been done to each member, in a word, for the screen."""

    @property
    def foreign(self) -> bool:
        """Whether the workers are not our own: of their starts and ends nothing is promised."""
        return self.pool.settings.worker_command is not None

    @property
    def scripts(self) -> Sequence[_Script]:
        return (
            _Script("calm", "calm", 3.0, self._calm),
            _Script("kill", "kill -9 of w2 and its sidecar", 4.0, self._kill),
            _Script("restart", "both start again", 3.0, self._restart),
            _Script("freeze", "SIGSTOP of w3 and its sidecar", 4.0, self._freeze),
            _Script("thaw", "SIGCONT: both go on", 3.0, self._thaw),
            _Script("drain", "SIGTERM: w1 drains and leaves", 4.0, self._drain),
        )

    async def open(self) -> None:
        """Start everything and wait for one view. Raises NotSeen, ProcessEnded where that does not come about."""
        begun = time.monotonic()
        self.pool.start()
        names = list(self.pool.members)
        one_view = everyone_routable(names)
        trouble: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._mind_processes)
                at = await self.watch.until(names, one_view, "one view of three workers", self.patience)
                nursery.cancel_scope.cancel()
        except* (NotSeen, ProcessEnded) as group:
            trouble = group.exceptions[0]
        if trouble is not None:
            raise trouble
        self.doing.update(dict.fromkeys(names, "running"))
        self.audience.notes(f"one view at all three sidecars {duration(at - begun)} after the first start")

    async def _mind_processes(self) -> None:
        while True:
            self.pool.check()
            await trio.sleep(0.1)

    async def play(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Every act in turn; the verdict grows with each. ``finish`` ends the stream of requests in the last act."""
        for number, script in enumerate(self.scripts, 1):
            act = Act(script.name, script.title, number, time.monotonic(), Lateness.from_now(self._pids()))
            self.audience.begins(act)
            await script.play(act)
            await trio.sleep(max(0.0, act.begun + script.seconds * self.pace - time.monotonic()))
            if number == len(self.scripts):
                await finish()
            self._close(act)

    def _close(self, act: Act) -> None:
        now = time.monotonic()
        outcomes = self.ledger.ended_since(act.begun, now)
        seen = figures(outcomes)
        limit = {"kill": KILL_SLOWEST, "freeze": FREEZE_SLOWEST}.get(act.name)
        if limit is not None:
            # What a death may add is promised; how long a model of somebody else's thinks is its own affair.
            limit += self.verdict.acts[0].figures.p99 if self.foreign else 0.0
            slowest = seen.slowest if seen.requests else None
            act.promises.insert(0, TimePromise("slowest request", limit, slowest, slowest_late(outcomes)))
        report = ActReport(act.name, act.title, now - act.begun, seen, tuple(act.promises), tuple(act.notes))
        self.verdict.acts.append(report)
        self.audience.ends(report)

    async def _calm(self, act: Act) -> None:
        """Nothing happens: the latencies to compare with."""

    async def _kill(self, act: Act) -> None:
        instance = self.watch.instance("w2", ["w1", "w3"])
        begun = self.pool["w2"].kill()
        self.doing["w2"] = "killed"
        await self._promise(act, "evicted at every survivor", EVICTED_WITHIN, begun, ["w1", "w3"], evicted(instance))

    async def _restart(self, act: Act) -> None:
        member = self.pool["w2"]
        member.sidecar.wait()
        begun = member.start()
        self.doing["w2"] = "running"
        seen = await self._seen(act, "w2 routable again", begun, ["w1", "w2", "w3"], routable("w2"), self.patience)
        if not self.foreign:
            late = act.lateness.seconds(self._pids())
            act.promises.append(TimePromise("routable everywhere, start-up included", BACK_WITHIN, seen, late))

    async def _freeze(self, act: Act) -> None:
        instance = self.watch.instance("w3", ["w1", "w2"])
        begun = self.pool["w3"].freeze()
        self.doing["w3"] = "frozen"
        await self._promise(act, "evicted at every survivor", EVICTED_WITHIN, begun, ["w1", "w2"], evicted(instance))

    async def _thaw(self, act: Act) -> None:
        begun = self.pool["w3"].thaw()
        self.doing["w3"] = "running"
        await self._promise(act, "routable again everywhere", BACK_WITHIN, begun, ["w1", "w2", "w3"], routable("w3"))

    async def _drain(self, act: Act) -> None:
        member, others = self.pool["w1"], ["w2", "w3"]
        instance = self.watch.instance("w1", others)
        begun = time.monotonic()
        member.sidecar.signal(signal.SIGTERM)
        self.doing["w1"] = "draining"
        await self._promise(act, "no new work, told everywhere", DRAINED_WITHIN, begun, others, unroutable(instance))
        await self._seen(act, "w1 has left", begun, others, evicted(instance), PATIENCE_SECONDS)
        await self._ends(act, "sidecar", member.sidecar)
        member.worker.signal(signal.SIGTERM)
        await self._ends(act, "worker", member.worker)
        self.doing["w1"] = "left"

    async def _ends(self, act: Act, which: str, program: Program) -> None:
        try:
            code = await trio.to_thread.run_sync(program.wait, abandon_on_cancel=True)
            ended, held = f"code {code}", code == 0
        except ProcessEnded as error:
            ended, held = str(error), False
        if which == "worker" and self.foreign:
            self._note(act, f"the worker's end: {ended}")
        else:
            act.promises.append(FactPromise(f"the {which} ends with code 0", held, ended))

    async def _promise(
        self, act: Act, what: str, target: float, since: float, observers: Sequence[str], test: Test
    ) -> None:
        seen = await self._seen(act, what, since, observers, test, PATIENCE_SECONDS)
        act.promises.append(TimePromise(what, target, seen, act.lateness.seconds(self._pids())))

    def _pids(self) -> list[int]:
        return [program.pid for program in self.pool.programs if program.pid is not None]

    async def _seen(
        self, act: Act, what: str, since: float, observers: Sequence[str], test: Test, within: float
    ) -> float | None:
        """Seconds since then until all of these sidecars answered so; None, and a note, if that did not happen."""
        try:
            seen = max(0.0, await self.watch.until(observers, test, what, within) - since)
        except NotSeen as error:
            self._note(act, str(error))
            return None
        self._note(act, f"{what}: {duration(seen)}")
        return seen

    def _note(self, act: Act, text: str) -> None:
        act.notes.append(text)
        self.audience.notes(text)
