"""A worker in virtual time, and the sidecar's judgement of it: the pure machine is driven as the sidecar drives it.

worker = WorkerModel(counters=lambda t: CounterReading(3, 2, progress=min(t, 60)))
story = Story(worker, HealthSettings(period=1.0, probe_budget=0.5))
story.run(until=70)
assert story.changes == [(0.0, Condition.WELL), (65.0, Condition.STALLED)]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rumormill.sidecar.counters.reading import CounterReading
from rumormill.sidecar.health import CheckMiss, Condition, HealthSettings, HealthVerdict, MissKind, WorkerHealth
from rumormill.sidecar.probes import ProbeOutcome, ProbeVerdict

RIGHT = ProbeOutcome(ProbeVerdict.RIGHT, "as expected", 0.01)
WRONG = ProbeOutcome(ProbeVerdict.WRONG, "the vector holds NaN", 0.01)
SILENT = ProbeOutcome(ProbeVerdict.SILENT, "the connection was reset", 0.01)
HANGS = ProbeOutcome(ProbeVerdict.TIMED_OUT, "no answer within 3 s", 3.0)
REFUSED_AS_BUSY = ProbeOutcome(ProbeVerdict.SLOW, "429: too many requests", 0.01)


def late(seconds: float) -> ProbeOutcome:
    """A right answer after so long."""
    return ProbeOutcome(ProbeVerdict.SLOW, f"right but came after {seconds:g} s", seconds)


@dataclass
class WorkerModel:
    """How the worker behaves at each moment, in seconds since the start."""

    check: Callable[[float], MissKind | None] = lambda _: None
    """None passes."""
    counters: Callable[[float], CounterReading | None] = lambda _: None
    """None: the page cannot be read."""
    probe: Callable[[float], ProbeOutcome] = lambda _: RIGHT
    """What a probe that is sent then ends with."""
    callers: Callable[[float], CounterReading | None] = lambda _: None


@dataclass
class Story:
    """What became of one worker."""

    worker: WorkerModel
    settings: HealthSettings
    step: float = 0.05
    check_timeout: float = 3.0
    changes: list[tuple[float, Condition]] = field(default_factory=list)
    verdicts: list[HealthVerdict] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    """When each was sent."""
    now: float = 0.0

    def __post_init__(self) -> None:
        self.health = WorkerHealth(self.settings, unit="token was produced")
        self._next_check = self._next_read = 0.0
        self._check_sent: float | None = None
        self._probe: tuple[float, ProbeOutcome] | None = None

    def run(self, until: float) -> Story:
        """Go on until then, in small steps."""
        while self.now < until:
            self._do_check()
            self._do_counters()
            self._do_probe()
            self.health.handle_timer(self.now)
            self._note()
            self.now = round(self.now + self.step, 6)
        return self

    @property
    def condition(self) -> Condition:
        return self.health.verdict.condition

    @property
    def conditions(self) -> list[Condition]:
        return [condition for _, condition in self.changes]

    def out_at(self) -> float | None:
        """When it first took no new work after it had been well."""
        well = next((at for at, condition in self.changes if condition is Condition.WELL), None)
        if well is None:
            return None
        return next((at for at, found in self.changes if at > well and not found.readiness.routable), None)

    def _note(self) -> None:
        verdict = self.health.verdict
        if not self.changes or self.changes[-1][1] is not verdict.condition:
            self.changes.append((self.now, verdict.condition))
            self.verdicts.append(verdict)

    def _do_check(self) -> None:
        """An unanswered check stays open, and each further period is another miss."""
        if self.now < self._next_check:
            return
        kind = self.worker.check(self.now)
        if self._check_sent is None:
            self._check_sent = self.now
            if kind is MissKind.NO_ANSWER:
                self._next_check = self.now + self.check_timeout
                return
        self._next_check = self.now + self.settings.period
        if kind is None:
            self.health.check_passed(self.now)
        else:
            self.health.check_missed(CheckMiss(kind, kind.value, self._check_sent), self.now)
        if kind is not MissKind.NO_ANSWER:
            self._check_sent = None

    def _do_counters(self) -> None:
        if self.now < self._next_read - 1e-9:
            return
        reading = self.worker.counters(self.now)
        if reading is not None:
            self.health.counters_read(reading, self.now)
        reported = self.worker.callers(self.now)
        if reported is not None:
            self.health.callers_reported(reported, self.now)
        self._next_read = self.now + (0.4 if self.health.has_work else 1.0)
        if self.health.stall_due_at(self.now) > self.now:
            self._next_read = min(self._next_read, self.health.stall_due_at(self.now))

    def _do_probe(self) -> None:
        if self._probe is not None and self.now >= self._probe[0]:
            outcome, self._probe = self._probe[1], None
            self.health.probe_ended(outcome, self.now)
        if self._probe is None and self.now >= self.health.probe_due_at(self.now):
            outcome = self.worker.probe(self.now)
            self._probe = (self.now + outcome.seconds, outcome)
            self.probes.append(self.now)
            self.health.probe_began(self.now)
