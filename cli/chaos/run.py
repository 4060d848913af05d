"""The order of things in a run: traffic first, then fault after fault, each undone however the run ends."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from rumormill.cli.chaos.objectives import ChaosVerdict, FaultTimes, judge
from rumormill.cli.chaos.schedule import RANDOM, AbortSpec, FaultSpec, PlannedFault, Schedule, lay_out
from rumormill.cli.chaos.traffic import ChaosTraffic
from rumormill.cli.demo.pool_watch import ConditionNotMet, PoolWatch, evicted, routable
from rumormill.cli.demo.request_log import RequestLog, RequestOutcome
from rumormill.cli.demo.verdict import duration

REJOIN_LIMIT = 60.0
"""Seconds after which a member that does not come back is given up."""
LOOK_PERIOD = 0.02
GUARD_PERIOD = 0.25
GUARD_LEAST = 20
"""The guard judges no share of fewer requests than this."""
TAIL_SECONDS = 2.0
"""Seconds of traffic after the last fault."""


class Injector(Protocol):
    """What can do faults to members. Undone at the end of the block."""

    @property
    def members(self) -> list[str]: ...

    def prepare(self, specs: Iterable[FaultSpec]) -> None: ...

    def inject(self, spec: FaultSpec, member: str) -> AbstractAsyncContextManager[None]: ...


class ChaosRun:
    """One run. Its figures grow while it goes on, so that a run that is cut short has a verdict too."""

    def __init__(
        self,
        schedule: Schedule,
        injector: Injector,
        watch: PoolWatch,
        log: RequestLog,
        traffic: ChaosTraffic,
        say: Callable[[str], None],
    ) -> None:
        self.schedule = schedule
        self.injector = injector
        self.watch = watch
        self.log = log
        self.faults: list[FaultTimes] = []
        self.stopped = ""
        self.guarded = False
        """Whether the guard stopped it."""
        self.begun = time.monotonic()
        self._traffic = traffic
        self._say = say
        self._rng = random.Random(schedule.seed)
        self._held: set[str] = set()

    async def play(self) -> None:
        """From the first request to the last. Cancelled, it undoes what it has done."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._traffic.run)
            self.begun = time.monotonic()
            nursery.start_soon(self._guard, nursery.cancel_scope)
            async with trio.open_nursery() as faults:
                for planned in lay_out(self.schedule):
                    faults.start_soon(self._play_at, planned)
            end = self.begun + self.schedule.duration
            await trio.sleep(max(TAIL_SECONDS, end - time.monotonic()))
            await self._traffic.finish()
            nursery.cancel_scope.cancel()

    def verdict(self) -> ChaosVerdict:
        verdict = judge(self.faults, self.log.outcomes, self.schedule.objectives)
        verdict.stopped = self.stopped
        return verdict

    async def _play_at(self, planned: PlannedFault) -> None:
        await trio.sleep(max(0.0, self.begun + planned.at - time.monotonic()))
        spec = planned.spec
        member = self._target(spec)
        if member is None:
            self._tell(f"{spec.kind}: left out, for another fault holds {spec.target}")
            return
        self._held.add(member)
        fault = FaultTimes(spec.kind, member, time.monotonic(), left=len(self.injector.members) - len(self._held))
        self.faults.append(fault)
        try:
            await self._play(spec, fault)
        finally:
            self._held.discard(member)

    def _target(self, spec: FaultSpec) -> str | None:
        free = [name for name in self.injector.members if name not in self._held]
        if spec.target == RANDOM:
            return self._rng.choice(free) if free else None
        return spec.target if spec.target in free else None

    async def _play(self, spec: FaultSpec, fault: FaultTimes) -> None:
        self._tell(f"{fault.title}, {fault.left} left")
        before = self._instance(fault.member)
        try:
            async with self.injector.inject(spec, fault.member):
                await trio.sleep(spec.lasts)
                fault.evicted = self._evicted_at(fault, before)
        finally:
            fault.undone = time.monotonic()
        fault.rejoined = await self._rejoined(fault.member, before if spec.kind in ("kill", "restart") else "")
        if fault.rejoined is None:
            self._tell(f"{fault.title}: over, but not back within {REJOIN_LIMIT:g} s")
        else:
            self._tell(f"{fault.title}: over, back after {duration(fault.rejoined - fault.undone)}")

    async def _rejoined(self, member: str, instance: str) -> float | None:
        """When every sidecar that no fault holds sends work to it again, as another instance than that."""
        back = routable(member, instance)
        with trio.move_on_after(REJOIN_LIMIT):
            while True:
                answers = [self.watch.answers.get(observer) for observer in self._observers(member)]
                if all(answer is not None and back(answer) for answer in answers):
                    return time.monotonic()
                await trio.sleep(LOOK_PERIOD)
        return None

    def _observers(self, member: str = "") -> list[str]:
        """The sidecars that no fault holds, and this member's."""
        return [name for name in self.watch.observers if name == member or name not in self._held]

    def _instance(self, member: str) -> str:
        try:
            return self.watch.instance(member, self.watch.observers)
        except ConditionNotMet:
            return ""

    def _evicted_at(self, fault: FaultTimes, instance: str) -> float | None:
        """When the last of the other sidecars left it out of its answers, if all do."""
        others = self._observers()
        if not others or not all(o in self.watch.answers and evicted(instance)(self.watch.answers[o]) for o in others):
            return None
        gone = [
            change.at
            for change in self.watch.changes
            if change.instance == instance and change.state == "gone" and change.at >= fault.begun
            and change.observer in others
        ]  # fmt: skip
        return max(gone, default=None)

    async def _guard(self, scope: trio.CancelScope) -> None:
        """Stops the run when too many of the latest requests failed."""
        abort = self.schedule.abort
        while True:
            await trio.sleep(GUARD_PERIOD)
            if reason := guard_reason(self.log.recent(time.monotonic(), abort.over), abort):
                self.stopped, self.guarded = reason, True
                self._tell(f"the guard stops the run: {reason}")
                scope.cancel()
                return

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self.begun:7.1f} s  {text}")


def guard_reason(latest: list[RequestOutcome], abort: AbortSpec) -> str:
    """Why to stop; empty if there is no reason."""
    failed = sum(outcome.trouble is not None or outcome.wrong is not None for outcome in latest)
    if len(latest) < GUARD_LEAST or failed <= abort.errors * len(latest):
        return ""
    return f"{failed} of the {len(latest)} requests of {abort.over:g} s failed, more than {abort.errors:.2%}"
