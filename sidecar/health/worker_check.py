"""Looks at the worker forever: sends checks and probes, reads counters, and hands what came to :class:`WorkerHealth`.

Nothing is decided here. Each of the three runs in a task of its own, and only if it is configured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import trio

from rumormill.membership.record import Readiness
from rumormill.sidecar.counters.counter_reader import CounterReader
from rumormill.sidecar.counters.reading import BadCounters, CounterReading
from rumormill.sidecar.health.observations import CheckMiss, HealthVerdict
from rumormill.sidecar.health.plan import WorkerPlan
from rumormill.sidecar.health.readiness_check import ReadinessCheck
from rumormill.sidecar.health.worker_health import DOUBTED_SECONDS, WorkerHealth
from rumormill.sidecar.probes import Probe
from rumormill.sidecar.settings_values import NO_CHECK

BUSY_READ_SECONDS: Final = 0.4
"""Between two readings of the counters while the worker has requests. Larger: a stall is noticed that much later;
smaller: reading costs more."""
IDLE_READ_SECONDS: Final = 1.0
"""The same while it has none. Larger: the beginning of work is noticed later; smaller: an idle sidecar costs more."""


class WorkerCheck:
    """Watches one worker forever.

    ``on_change`` gets the new readiness and the reason, at once. ``on_failure`` is called before it when a ready worker
    has failed for certain. ``on_miss`` gets the reason of a missed check if it differs from that of the miss before,
    and ``on_note`` what else an operator should know. ``on_reading`` is called when the counters were read, or could
    not be. ``callers`` returns what the worker's callers report; None if they report nothing.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        *,
        on_change: Callable[[Readiness, str], None],
        on_failure: Callable[[], None],
        on_miss: Callable[[str], None],
        on_note: Callable[[str], None] = lambda _: None,
        on_reading: Callable[[], None] = lambda: None,
        callers: Callable[[], CounterReading | None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._on_change = on_change
        self._on_failure = on_failure
        self._on_miss = on_miss
        self._on_note = on_note
        self._on_reading = on_reading
        self._callers = callers
        self._health = WorkerHealth(plan.judge, unit=plan.unit)
        self._check = self._new_check()
        self._round_scope = trio.CancelScope()
        self._news = trio.Event()
        """Set when anything was seen: the next probe may be due earlier now."""
        self._check_now = trio.Event()
        self._next_doubt = float("-inf")
        """When a doubt may cause the next check."""
        self._counter_trouble = ""
        self._late_answer = False
        """Whether the pending check was sent to a process that has exited since."""
        self.counters = CounterReader()
        self.counters.configure(plan.counters)
        self.process_exited = trio.Event()
        """Set when the worker's process has exited; never set if its process is not known."""
        self.last_miss = ""
        """Why the latest check was missed; empty if it passed."""

    @property
    def verdict(self) -> HealthVerdict:
        """What the worker is held to be now."""
        return self._health.verdict

    @property
    def misses(self) -> int:
        """Missed checks in a row."""
        return self._health.misses

    @property
    def up(self) -> bool:
        """Whether the worker is ready and its last check passed."""
        return self.verdict.readiness.routable and not self.misses

    def restart_reason(self) -> str | None:
        """Why the worker's process should be restarted; None if it should not."""
        return self._health.restart_reason(trio.current_time())

    async def run(self) -> None:
        """Watch forever. Begins anew when the plan has changed."""
        while True:
            with trio.CancelScope() as self._round_scope:
                try:
                    await self._watch()
                finally:
                    self._check.close()
                    self.counters.close()
                    self._health.probe_cancelled()
            self._check = self._new_check()

    def configure(self, plan: WorkerPlan) -> None:
        """Look at the worker in this way from now on. What is known of it stays until something new is seen."""
        before, self._plan = self._plan, plan
        if plan != before:
            self._health.configure(plan.judge, unit=plan.unit)
            self.counters.configure(plan.counters)
        if plan != before or plan.probe is not None:
            self._round_scope.cancel()

    def process_started(self) -> None:
        """A process of the worker is now watched; its exit will be reported."""
        self.process_exited = trio.Event()
        self._see(lambda now: self._health.process_started(now))
        self._check_now.set()

    def process_ended(self) -> None:
        """The process has exited: the worker is critical at once, before any check is missed."""
        self.process_exited.set()
        self._late_answer = self._check.pending
        self._see(lambda now: self._health.process_ended(now))

    def doubt(self) -> None:
        """A caller says that the worker failed it: look at it now."""
        self._health.doubted()
        self._news.set()
        if trio.current_time() >= self._next_doubt:
            self._next_doubt = trio.current_time() + DOUBTED_SECONDS
            self._check_now.set()

    async def wait_worker_gone(self) -> None:
        """Wait until the process has exited. Never returns if another process is ready since."""
        await self.process_exited.wait()
        if self.verdict.readiness.routable:
            await trio.sleep_forever()

    def _new_check(self) -> ReadinessCheck:
        plan = self._plan
        return ReadinessCheck(
            plan.url, plan.path, period=plan.judge.period, timeout=plan.timeout, busy_statuses=plan.busy_statuses
        )

    async def _watch(self) -> None:
        check = self._take_for_passed if self._plan.path == NO_CHECK else self._check_forever
        if self._plan.counters is None and self._plan.probe is None:
            await check()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check)
            if self._plan.counters is not None:
                nursery.start_soon(self._read_forever)
            if self._plan.probe is not None:
                nursery.start_soon(self._probe_forever, self._plan.probe)

    # --- the readiness check

    async def _take_for_passed(self) -> None:
        """Instead of checks, for a worker that speaks no HTTP: what the probe says then decides."""
        while True:
            self._check_now = trio.Event()
            self._see(lambda now: self._health.check_passed(now))
            await self._check_now.wait()

    async def _check_forever(self) -> None:
        """A worker that is not ready yet is checked more often at first, to see its start at once."""
        begun = trio.current_time()
        while True:
            started = trio.current_time()
            self._hear_callers()
            self._take_check(await self._check.run())
            if not self._check.pending:
                soon = max(0.05, (started - begun) / 5)
                period = self._plan.judge.period
                self._check_now = trio.Event()
                with trio.move_on_at(started + (period if self.verdict.readiness.routable else min(period, soon))):
                    await self._check_now.wait()

    def _hear_callers(self) -> None:
        if (reports := self._callers()) is not None:
            self._see(functools.partial(self._health.callers_reported, reports))

    def _take_check(self, miss: CheckMiss | None) -> None:
        former, self._late_answer = self._late_answer, self._late_answer and self._check.pending
        if miss is not None:
            if miss.reason != self.last_miss:
                self.last_miss = miss.reason
                self._on_miss(miss.reason)
            self._see(lambda now: self._health.check_missed(miss, now))
            return
        self.last_miss = ""
        if not former:  # otherwise the process that was asked has exited since
            self._see(lambda now: self._health.check_passed(now))

    # --- the counters

    async def _read_forever(self) -> None:
        while True:
            began = trio.current_time()
            await self._read_counters()
            health, now = self._health, trio.current_time()
            due = began + (BUSY_READ_SECONDS if health.has_work else IDLE_READ_SECONDS)
            stall = health.stall_due_at(now)
            await trio.sleep_until(min(due, stall) if stall > now else due)

    async def _read_counters(self) -> None:
        try:
            reading = await self.counters.read()
        except BadCounters as error:
            self._note_counters(f"its counters are not known: {error}")
        else:
            self._note_counters("" if reading.progress is not None else "its page has no counter that shows progress")
            self._see(lambda now: self._health.counters_read(reading, now))
        self._on_reading()

    def _note_counters(self, trouble: str) -> None:
        """Tell of each kind of trouble once, and only while the worker is up: before, nothing can be read."""
        if trouble == self._counter_trouble or (trouble and not self.verdict.readiness.routable):
            return
        self._counter_trouble = trouble
        self._on_note(trouble or "its counters are known")

    # --- the probe

    async def _probe_forever(self, probe: Probe) -> None:
        while True:
            due = self._health.probe_due_at(trio.current_time())
            if due <= trio.current_time():
                await self._probe_once(probe)
                continue
            self._news = trio.Event()
            with trio.move_on_at(due):
                await self._news.wait()

    async def _probe_once(self, probe: Probe) -> None:
        async with trio.open_nursery() as nursery:
            self._see(lambda now: self._health.probe_began(now))
            nursery.start_soon(self._watch_clock)
            outcome = await probe.run()
            nursery.cancel_scope.cancel()
        self._see(lambda now: self._health.probe_ended(outcome, now))

    async def _watch_clock(self) -> None:
        """While a probe waits: look at what callers report, and tell the time when it matters."""
        while True:
            deadline = self._health.deadline(trio.current_time())
            await trio.sleep_until(min(deadline, trio.current_time() + BUSY_READ_SECONDS))
            self._hear_callers()
            if trio.current_time() >= deadline:
                self._see(lambda now: self._health.handle_timer(now))

    # --- what follows

    def _see(self, observe: Callable[[float], None]) -> None:
        before = self.verdict
        observe(trio.current_time())
        after = self.verdict
        if after.failed and not before.failed and before.readiness is not Readiness.STARTING:
            self._on_failure()
        if after.condition is not before.condition:
            self._on_change(after.readiness, after.reason)
        self._news.set()
