"""The phases of the demo: what is done to the pool, what is waited for, and what is promised.

A phase lasts for its planned time, or longer if what it waits for takes longer. Its promises are judged by the answers
of the live sidecars, on this process's clock, and by the outcomes of the caller's requests.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from rumormill.cli.demo.pool_watch import (
    Condition,
    ConditionNotMet,
    PoolWatch,
    everyone_routable,
    evicted,
    routable,
    unroutable,
)
from rumormill.cli.demo.processes import LocalMember, LocalPool, ProcessEnded, Program
from rumormill.cli.demo.request_log import RequestLog, RequestSummary, slowest_late, summarize
from rumormill.cli.demo.scheduling_delay import SchedulingDelay
from rumormill.cli.demo.verdict import DeadlinePromise, DemoVerdict, OutcomePromise, PhaseReport, Promise, duration

KILL_SLOWEST = 0.100
FREEZE_SLOWEST = 0.400
EVICTED_WITHIN = 0.85
BACK_WITHIN = 1.0
DRAINED_WITHIN = 0.1
PATIENCE_SECONDS = 5.0
"""Seconds to wait for a condition before it counts as not met."""


class DemoOutput(Protocol):
    """Shows the progress of the scenario: a live screen, a log, or nothing."""

    def phase_started(self, phase: Phase) -> None: ...

    def note(self, text: str) -> None: ...

    def phase_ended(self, report: PhaseReport) -> None: ...


@dataclass(slots=True)
class Phase:
    """A running phase."""

    name: str
    title: str
    number: int
    begun: float
    scheduling_delay: SchedulingDelay = field(default_factory=lambda: SchedulingDelay.from_now(()))
    """Measured from its beginning."""
    promises: list[Promise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A phase to come, and how long it lasts at least."""

    name: str
    title: str
    seconds: float
    play: Callable[[Phase], Awaitable[None]]


class DemoScenario:
    """Three members, w1 to w3, and what happens to each of them."""

    def __init__(
        self,
        pool: LocalPool,
        watch: PoolWatch,
        request_log: RequestLog,
        output: DemoOutput,
        *,
        pace: float,
        start_timeout: float,
    ) -> None:
        """``pace`` scales the length of the phases (1.0: 25 s in all). ``start_timeout`` is in seconds."""
        self.pool = pool
        self.watch = watch
        self.request_log = request_log
        self.output = output
        self.pace = pace
        self.start_timeout = start_timeout
        self.verdict = DemoVerdict()
        self.member_states = dict.fromkeys(pool.members, "starting")
        """The state of each member, in a word, for the screen."""

    @property
    def foreign(self) -> bool:
        """Whether the workers are foreign programs. Then nothing is promised about their start and end."""
        return self.pool.settings.worker_command is not None

    @property
    def plans(self) -> Sequence[PhasePlan]:
        return (
            PhasePlan("calm", "calm", 3.0, self._calm),
            PhasePlan("kill", "kill -9 of w2 and its sidecar", 4.0, self._kill),
            PhasePlan("restart", "both start again", 3.0, self._restart),
            PhasePlan("freeze", "SIGSTOP of w3 and its sidecar", 4.0, self._freeze),
            PhasePlan("thaw", "SIGCONT: both go on", 3.0, self._thaw),
            PhasePlan("drain", "SIGTERM: w1 drains and leaves", 4.0, self._drain),
        )

    async def open(self) -> None:
        """Start everything, and wait until all sidecars agree. Raises ConditionNotMet, ProcessEnded."""
        begun = time.monotonic()
        self.pool.start()
        names = list(self.pool.members)
        one_view = everyone_routable(names)
        trouble: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._check_processes)
                at = await self.watch.until(names, one_view, "one view of three workers", self.start_timeout)
                nursery.cancel_scope.cancel()
        except* (ConditionNotMet, ProcessEnded) as group:
            trouble = group.exceptions[0]
        if trouble is not None:
            raise trouble
        self.member_states.update(dict.fromkeys(names, "running"))
        self.output.note(f"one view at all three sidecars {duration(at - begun)} after the first start")

    async def _check_processes(self) -> None:
        while True:
            self.pool.check()
            await trio.sleep(0.1)

    async def play(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Run every phase, and add its report to the verdict. ``finish`` ends the requests in the last phase."""
        for number, plan in enumerate(self.plans, 1):
            phase = Phase(plan.name, plan.title, number, time.monotonic(), SchedulingDelay.from_now(self._pids()))
            self.output.phase_started(phase)
            await plan.play(phase)
            await self._after_play(phase)
            await trio.sleep(max(0.0, phase.begun + plan.seconds * self.pace - time.monotonic()))
            if number == len(self.plans):
                await finish()
            self._finish_phase(phase)

    async def _after_play(self, phase: Phase) -> None:
        """What a phase waits for besides its own conditions."""

    def _finish_phase(self, phase: Phase) -> None:
        now = time.monotonic()
        seen = summarize(self.request_log.ended_since(phase.begun, now))
        phase.promises[:0] = self._request_promises(phase, seen)
        report = PhaseReport(
            phase.name, phase.title, now - phase.begun, seen, tuple(phase.promises), tuple(phase.notes)
        )
        self.verdict.phases.append(report)
        self.output.phase_ended(report)

    def _request_promises(self, phase: Phase, seen: RequestSummary) -> Sequence[Promise]:
        """What is promised about the requests that ended in this phase."""
        limit = {"kill": KILL_SLOWEST, "freeze": FREEZE_SLOWEST}.get(phase.name)
        if limit is None:
            return ()
        # The promise is about the time that a failure adds. A foreign model needs its own time on top of that.
        limit += self.verdict.phases[0].figures.p99 if self.foreign else 0.0
        slowest = seen.slowest if seen.requests else None
        late = slowest_late(self.request_log.ended_since(phase.begun))
        return (DeadlinePromise("slowest request", limit, slowest, late),)

    async def _calm(self, phase: Phase) -> None:
        """Nothing happens: these latencies are the baseline."""

    async def _kill(self, phase: Phase) -> None:
        instance = self.watch.instance("w2", ["w1", "w3"])
        begun = self.pool["w2"].kill()
        self.member_states["w2"] = "killed"
        await self._expect_within(
            phase, "evicted at every survivor", EVICTED_WITHIN, begun, ["w1", "w3"], evicted(instance)
        )

    async def _restart(self, phase: Phase) -> None:
        member = self.pool["w2"]
        member.sidecar.wait()
        begun = member.start()
        self.member_states["w2"] = "running"
        seen = await self._wait_until(
            phase, "w2 routable again", begun, ["w1", "w2", "w3"], routable("w2"), self.start_timeout
        )
        if not self.foreign:
            late = phase.scheduling_delay.seconds(self._pids())
            phase.promises.append(DeadlinePromise("routable everywhere, start-up included", BACK_WITHIN, seen, late))

    async def _freeze(self, phase: Phase) -> None:
        instance = self.watch.instance("w3", ["w1", "w2"])
        begun = self.pool["w3"].freeze()
        self.member_states["w3"] = "frozen"
        await self._expect_within(
            phase, "evicted at every survivor", EVICTED_WITHIN, begun, ["w1", "w2"], evicted(instance)
        )

    async def _thaw(self, phase: Phase) -> None:
        begun = self.pool["w3"].thaw()
        self.member_states["w3"] = "running"
        await self._expect_within(
            phase, "routable again everywhere", BACK_WITHIN, begun, ["w1", "w2", "w3"], routable("w3")
        )

    async def _drain(self, phase: Phase) -> None:
        member, others = self.pool["w1"], ["w2", "w3"]
        instance = self.watch.instance("w1", others)
        begun = time.monotonic()
        await self._stop_work(member)
        self.member_states["w1"] = "draining"
        await self._expect_within(
            phase, "no new work, told everywhere", DRAINED_WITHIN, begun, others, unroutable(instance)
        )
        await self._after_drain(phase, member)
        await self._wait_until(phase, "w1 has left", begun, others, evicted(instance), PATIENCE_SECONDS)
        await self._wait_for_exit(phase, "sidecar", member.sidecar)
        member.worker.signal(signal.SIGTERM)
        await self._wait_for_exit(phase, "worker", member.worker)
        self.member_states["w1"] = "left"

    async def _stop_work(self, member: LocalMember) -> None:
        """Begin the drain."""
        member.sidecar.signal(signal.SIGTERM)

    async def _after_drain(self, phase: Phase, member: LocalMember) -> None:
        """Make a member that gets no new work leave. Ours leaves by itself, after its drain time."""

    async def _wait_for_exit(self, phase: Phase, which: str, program: Program) -> None:
        try:
            code = await trio.to_thread.run_sync(program.wait, abandon_on_cancel=True)
            ended, held = f"code {code}", code == 0
        except ProcessEnded as error:
            ended, held = str(error), False
        if which == "worker" and self.foreign:
            self._note(phase, f"the worker's end: {ended}")
        else:
            phase.promises.append(OutcomePromise(f"the {which} ends with code 0", held, ended))

    async def _expect_within(
        self, phase: Phase, what: str, target: float, since: float, observers: Sequence[str], test: Condition
    ) -> None:
        seen = await self._wait_until(phase, what, since, observers, test, PATIENCE_SECONDS)
        phase.promises.append(DeadlinePromise(what, target, seen, phase.scheduling_delay.seconds(self._pids())))

    def _pids(self) -> list[int]:
        return [program.pid for program in self.pool.programs if program.pid is not None]

    async def _wait_until(
        self, phase: Phase, what: str, since: float, observers: Sequence[str], test: Condition, within: float
    ) -> float | None:
        """Seconds from ``since`` until all of these sidecars met the condition; None, and a note, if they did not."""
        try:
            seen = max(0.0, await self.watch.until(observers, test, what, within) - since)
        except ConditionNotMet as error:
            self._note(phase, str(error))
            return None
        self._note(phase, f"{what}: {duration(seen)}")
        return seen

    def _note(self, phase: Phase, text: str) -> None:
        phase.notes.append(text)
        self.output.note(text)
