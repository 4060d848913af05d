"""What the worker is, from all that is seen of it. Pure: the time, in seconds, is passed in.

    starting --it answers--> well <--> slow
    any --> asleep --its engine is woken--> starting
    any --> ended, wrong, silent, stalled --it answers, or makes progress, again--> well

Three things are told apart, and each has its own clock:

- *Progress.* While the engine's counters move, it is alive, however long a check or a probe waits. Silence and slowness
  do not count against it. A wrong answer does.
- *Stalled.* Requests run or wait, and no counter has moved for the stall time. The first movement ends it.
- *Wrong* and *silent.* A wrong answer to a known question counts at once. A refused or closed connection counts at the
  third time in a row, as for the readiness check.

Where the engine has no counters, or they cannot be read, what the callers report takes their place. Without that too, a
probe that is not answered for three times its budget counts as three misses. Counters that cannot be read say nothing
about the worker.

An engine that was put to sleep says so in its counters. It is *asleep*: not ready, no fault, and not probed.

The worker is *starting* until its readiness check has passed and a probe, if there is one, was answered. Until then no
silence and no refusal counts, however long a first compilation takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rumormill.sidecar.counters.reading import CounterReading
from rumormill.sidecar.health.check_evidence import MISSES, CheckEvidence
from rumormill.sidecar.health.observations import CheckMiss, Condition, HealthVerdict, MissKind
from rumormill.sidecar.health.probe_evidence import CLOCK_ERROR, ProbeEvidence
from rumormill.sidecar.health.progress import STALE_SECONDS, ProgressTracker
from rumormill.sidecar.probes import ProbeOutcome

AUDIT_SECONDS: Final = 30.0
"""Seconds between probes while the counters move. Only a wrong answer counts then: an engine that computes nonsense
moves its counters too. Larger: nonsense is found later; smaller: more of the engine's time goes to probes."""
QUIET_PROBE_FRACTION: Final = 0.8
"""The part of the stall time after which counters that stand still are probed. With the stall itself, a hang of an idle
engine is found within twice the stall time."""
MOVES_OF_A_RHYTHM: Final = 5
"""How often callers must have seen the worker make progress until their longest pause is taken as usual. Larger: a hang
of a worker without counters is found by the stall time for longer."""
REPORT_SECONDS: Final = 1.0
"""Callers report once a second: what is heard of now may have happened so long ago."""
REPORT_LAG: Final = 2.0
"""Seconds by which callers may report late what they saw finished. A shorter time lets a worker back in that has hung
since."""
DOUBTED_SECONDS: Final = 1.0
"""At least between two probes that callers' doubts cause. Larger: who doubts every worker costs less, and a fault that
follows another is found later."""
BUSY_FRACTION: Final = 0.5
"""The part of the period after which a worker without counters is probed again while callers' requests end there.
Larger: a slow answer is noticed later; smaller: more probes beside users' requests."""
EXTRA_SHARE: Final = 0.05
"""The most of a worker's time that probes may take which come sooner than after a period."""
FOLLOW_UP_FRACTION: Final = 0.5
"""The part of the budget after which another probe follows one that needs more to agree with it. With a larger part,
three refused probes take longer than three budgets."""
ASLEEP_TEXT: Final = "its engine was put to sleep, and takes requests again when it is woken"
NOT_ANSWERED_YET: Final = "the worker has not answered its check yet"


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Times in seconds."""

    period: float
    """Between two checks, and between two probes where no counters are known."""
    stall_time: float = 5.0
    restart_after: float = 180.0
    probe_budget: float | None = None
    """The probe's latency budget in seconds; None without a probe."""


class WorkerHealth:
    """One worker. Each method that takes an observation may change :attr:`verdict`."""

    def __init__(self, settings: HealthSettings, *, unit: str = "counter moved") -> None:
        self._settings = settings
        self._engine = ProgressTracker(unit)
        self._callers = ProgressTracker("request was finished")
        self._check = CheckEvidence()
        self._probe = ProbeEvidence(settings.probe_budget or 0.0)
        self._ready = False
        """Whether it has been well since its process began."""
        self._ended = False
        self._stall = ""
        """Why it is held to be stalled; empty if it is not."""
        self._stalled_since = 0.0
        """When it began to stand still, if it is stalled."""
        self._crowded = False
        """Whether others had requests here while the latest probe waited."""
        self._asleep = False
        """Whether its engine says that it was put to sleep."""
        self._doubted = False
        """Whether a caller has doubted the worker since the latest probe was sent."""
        self._next_doubt_at = float("-inf")
        """When the next probe may be sent because of a doubt."""
        self._probe_seconds = 0.0
        """How long the latest probe took."""
        self._hung_since: float | None = None
        """Since when it takes connections and makes no progress."""
        self.verdict = HealthVerdict(Condition.STARTING, NOT_ANSWERED_YET)

    def configure(self, settings: HealthSettings, *, unit: str) -> None:
        """Judge by these settings from now on. What is known of the worker stays."""
        if (settings.probe_budget is None) is not (self._settings.probe_budget is None):
            self._probe = ProbeEvidence(settings.probe_budget or 0.0)
        self._settings = settings
        self._engine = ProgressTracker(unit)

    # --- observations

    def check_passed(self, now: float) -> None:
        self._check.passed()
        self._ended = False
        self._conclude(now)

    def check_missed(self, miss: CheckMiss, now: float) -> None:
        self._check.missed(miss, excused=not miss.kind.conclusive and self._is_judged_by_counters(miss.asked_at, now))
        if miss.kind is MissKind.REFUSED:
            self._engine.forget()
        self._conclude(now)

    def counters_read(self, reading: CounterReading, now: float) -> None:
        """The engine's own counters."""
        self._crowded = self._crowded or (self._probe.pending and (reading.at_work or 0) > 1)
        self._take_figures(self._engine, reading, now)

    def callers_reported(self, reading: CounterReading, now: float) -> None:
        """What the callers have under way at this worker, and as ``progress`` how many requests they have seen end."""
        self._take_figures(self._callers, reading, now)

    def doubted(self) -> None:
        """A caller says that the worker failed it. That decides nothing, but the next probe is due now."""
        self._doubted = True

    def probe_began(self, now: float) -> None:
        if self._doubted:
            self._doubted, self._next_doubt_at = False, now + DOUBTED_SECONDS
        self._probe.began(now)
        self._crowded = self._engine.working
        self._conclude(now)

    def probe_ended(self, outcome: ProbeOutcome, now: float) -> None:
        judge, crowded = self._tracker(now), self._is_crowded(now)
        finishing = judge is self._callers and judge.working
        excused = (crowded or finishing) and not self._stall
        self._next_doubt_at = max(self._next_doubt_at, now + outcome.seconds * (1 / EXTRA_SHARE - 1))
        self._probe_seconds = outcome.seconds
        self._probe.ended(outcome, now, judged=judge is not None, excused=excused, crowded=crowded)
        if self._probe.answers(outcome):
            self._stall = ""
        self._conclude(now)

    def probe_cancelled(self) -> None:
        """The probe was given up for another one. It says nothing."""
        self._probe.pending, self._probe.waiting_since = False, None

    def process_started(self, now: float) -> None:
        """Another process is the worker now."""
        if self._ended:
            self._ended = self._ready = False
            self._check = CheckEvidence()
            self._conclude(now)

    def process_ended(self, now: float) -> None:
        self._ended, self._ready, self._stall = True, False, ""
        self._check = CheckEvidence()
        self._probe = ProbeEvidence(self._settings.probe_budget or 0.0)
        self._engine.forget()
        self._conclude(now)

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        self._conclude(now)

    # --- what should be looked at next

    def probe_due_at(self, now: float) -> float:
        """When the next probe should be sent; infinity while one is under way, or none makes sense."""
        settings, probe = self._settings, self._probe
        waits_for_check = self._ended or (not self._ready and not self._check.passed_last)
        if settings.probe_budget is None or probe.pending or waits_for_check or self._asleep:
            return float("inf")
        doubt = self._next_doubt_at if self._doubted else float("inf")
        if not self._ready:
            return probe.began_at + settings.period
        if probe.unsettled:
            return probe.began_at + min(FOLLOW_UP_FRACTION * settings.probe_budget, settings.period)
        if probe.suspicious or not self._engine.usable(now):
            return min(probe.began_at + self._pace(now), doubt)
        quiet = max(probe.began_at, self._engine.moved_at) + QUIET_PROBE_FRACTION * settings.stall_time
        return min(probe.began_at + AUDIT_SECONDS, quiet, doubt)

    def _pace(self, now: float) -> float:
        """Seconds from one probe to the next where no counters are known."""
        period = self._settings.period
        if not self._callers.usable(now) or now - self._callers.moved_at > STALE_SECONDS:
            return period
        return min(period, max(BUSY_FRACTION * period, self._probe_seconds / EXTRA_SHARE))

    def deadline(self, now: float) -> float:
        """When :meth:`handle_timer` should be called if nothing else is seen."""
        since, late_at = self._probe.waiting_since, self._probe.late_at
        if self._probe.slow or self._is_crowded(now):
            late_at = float("inf")
        if since is None or self._probe.too_late or self._tracker(now) is not None:
            return late_at
        return min(late_at, max(since, self._moved_at) + self._probe.patience)

    def stall_due_at(self, now: float) -> float:
        """When the counters should be read at the latest, so that a stall is seen in time; infinity without work."""
        standing = self._engine.standing_since(self._probe.waiting_since)
        if standing is None or self._stall:
            return float("inf")
        return standing + self._allowed(self._engine, now)

    @property
    def has_work(self) -> bool:
        """Whether the counters should be read often."""
        return self._engine.working or self._probe.pending or bool(self._stall)

    @property
    def misses(self) -> int:
        """Missed checks in a row that count."""
        return self._check.misses

    def restart_reason(self, now: float) -> str | None:
        """Why the worker's process should be restarted; None if it should not."""
        if self._hung_since is None or now - self._hung_since < self._settings.restart_after:
            return None
        return f"the worker has made no progress for {now - self._hung_since:.0f} s: {self.verdict.reason}"

    # --- conclusions

    @property
    def _moved_at(self) -> float:
        return max(self._engine.moved_at, self._callers.moved_at)

    def _tracker(self, now: float) -> ProgressTracker | None:
        """The best source that is known now."""
        return next((one for one in (self._engine, self._callers) if one.usable(now)), None)

    def _is_crowded(self, now: float) -> bool:
        """Whether the engine's counters show that others were ahead of the latest probe."""
        return self._crowded and self._tracker(now) is self._engine

    def _allowed(self, tracker: ProgressTracker, now: float) -> float:
        """For how long a source may stand still. Where callers see requests end all the time, twice their longest pause
        is enough: the stall time is for those of which no such pause is known."""
        least = self._settings.stall_time
        if tracker is self._callers:
            rhythm_known = tracker.moves >= MOVES_OF_A_RHYTHM
            least = self._probe.patience if rhythm_known else max(self._probe.patience, least - REPORT_SECONDS)
        return tracker.allowed(least, self._settings.restart_after, now)

    def _is_judged_by_counters(self, asked_at: float, now: float) -> bool:
        """Whether silence is no evidence: the worker has made progress since, or its counters are better evidence."""
        tracker = self._tracker(now)
        return self._moved_at >= asked_at or (tracker is not None and tracker.working)

    def _take_figures(self, tracker: ProgressTracker, reading: CounterReading, now: float) -> None:
        if tracker.read(reading, now, stalled=bool(self._stall) or self._probe.too_late):
            self._stall = ""
            self._check.forgive_silence()
            if tracker is self._engine or now - self._probe.too_late_at > REPORT_LAG:
                self._probe.forgive_silence()
        elif self._settings.probe_budget is None and not tracker.working:
            self._stall = ""  # nobody would ever find out that it works again
        self._conclude(now)

    def _conclude(self, now: float) -> None:
        self._look_for_sleep(now)
        if not self._is_crowded(now):
            self._probe.wait(now)
        self._look_for_stall(now)
        self._ready = self._ready or self._has_come()
        condition, reason, failed = self._judge()
        self._hung_since = None if failed else self._hanging_since(condition, now)
        self.verdict = HealthVerdict(condition, reason, failed)

    def _has_come(self) -> bool:
        answers = self._settings.probe_budget is None or self._probe.answered or self._moved_at > float("-inf")
        return self._check.passed_last and not self._ended and answers

    def _look_for_sleep(self, now: float) -> None:
        """What was seen before it fell asleep says nothing of the engine that wakes."""
        before, self._asleep = self._asleep, self._engine.asleep(now)
        if self._asleep and not before:
            self._ready, self._stall = False, ""
            self._probe = ProbeEvidence(self._settings.probe_budget or 0.0)

    def _look_for_stall(self, now: float) -> None:
        tracker = self._tracker(now)
        if tracker is None:
            if not self._probe.too_late and self._probe.waited_too_long(self._moved_at, now):
                self._probe.too_late, self._probe.too_late_at = True, now
            return
        standing = self._standing_since(tracker)
        if self._stall or standing is None:
            return
        seconds = tracker.read_at - standing  # what has moved since the last figures is not known
        if seconds >= self._allowed(tracker, now) - CLOCK_ERROR:
            self._stall, self._stalled_since = tracker.describe_stall(seconds), standing

    def _standing_since(self, tracker: ProgressTracker) -> float | None:
        asked_since = self._probe.waiting_since
        if tracker is self._engine:
            return tracker.standing_since(asked_since)
        # Callers report what has ended, and a long request does not end. So only an unanswered probe tells of a stall.
        since = self._probe.answered_at if self._probe.answered else asked_since
        return None if since is None or asked_since is None else max(since, tracker.moved_at)

    def _judge(self) -> tuple[Condition, str, bool]:
        """The condition, the reason, and whether the worker has failed: what is worst counts."""
        check, probe = self._check, self._probe
        if self._ended:
            return Condition.ENDED, "its process has ended", True
        if self._asleep:
            return Condition.ASLEEP, ASLEEP_TEXT, False
        if probe.wrong:
            return Condition.WRONG, f"wrong answer: {probe.wrong}", True
        if not self._ready:
            return Condition.STARTING, check.reason or probe.reason or NOT_ANSWERED_YET, False
        if check.silent:
            return Condition.SILENT, f"{MISSES} checks missed, the last: {check.reason}", check.failed
        if probe.silent:
            return Condition.SILENT, f"{MISSES} probes failed, the last: {probe.reason}", True
        if self._stall:
            return Condition.STALLED, f"stalled: {self._stall}", False
        if probe.too_late:
            return Condition.SILENT, f"no answer to the probe within {probe.patience:g} s", False
        if probe.slow:
            return Condition.SLOW, f"slow: {probe.reason}", False
        return Condition.WELL, "it answers", False

    def _hanging_since(self, condition: Condition, now: float) -> float | None:
        """Since when the worker hangs. One that has refused a connection since its last pass may be starting."""
        if condition not in (Condition.STALLED, Condition.SILENT) or not self._check.only_unanswered:
            return None
        if self._hung_since is not None:
            return self._hung_since
        if condition is Condition.STALLED:
            return self._stalled_since
        return self._check.first_miss_at if self._check.silent else self._probe.waiting_since or now
