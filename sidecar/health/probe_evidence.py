"""What the deep probes say. Pure; times in seconds.

- *wrong*: one is enough. A right answer ends it.
- *silent* (refused, closed, reset): three in a row.
- *late*: an answer that takes longer than the budget. It is late once more with each further budget. Two in a row make
  the worker slow, and two in time end that. An answer that takes longer than three budgets is as good as none, unless
  the worker is seen to make progress.
"""

from __future__ import annotations

from typing import Final

from rumormill.sidecar.health.check_evidence import MISSES
from rumormill.sidecar.probes import ProbeOutcome, ProbeVerdict

LATE_UNTIL_SLOW: Final = 2
"""Late answers in a row until the pool is warned, and answers in time until it is not any more. With more, callers meet
a slow worker for longer; with one, a single long request ahead of the probe takes keys away."""

CLOCK_ERROR: Final = 1e-6
"""Seconds by which the difference of two times may be off."""


class ProbeEvidence:
    """The probes of one worker."""

    def __init__(self, budget: float) -> None:
        """``budget``: seconds within which an answer is due."""
        self._budget = budget
        self._late = 0
        self._in_time = 0
        self._late_of_pending = 0
        """Budgets that the pending probe has outlived."""
        self.began_at = float("-inf")
        """When the latest probe was sent."""
        self.pending = False
        self.waiting_since: float | None = None
        """When the first of the probes was sent that have not been answered."""
        self.answered = False
        """Whether any was answered right, in time or late."""
        self.answered_at = float("-inf")
        """When the latest such answer came."""
        self.wrong = ""
        """What is wrong with the latest answer; empty for nothing."""
        self.silent_probes = 0
        self.reason = ""
        """What the latest probe said."""
        self.slow = False
        self.too_late = False
        """Whether the worker answers later than three budgets, or not at all, and nothing shows progress."""
        self.too_late_at = float("-inf")
        """When that was found."""

    @property
    def patience(self) -> float:
        """Seconds after which a missing answer counts for all three misses."""
        return self._budget * MISSES

    @property
    def silent(self) -> bool:
        return self.silent_probes >= MISSES

    @property
    def unsettled(self) -> bool:
        """Whether more probes must agree with the latest before it counts: they come one right after another."""
        if self.slow:
            return self._in_time > 0
        return 0 < self.silent_probes < MISSES or self._late > 0

    @property
    def suspicious(self) -> bool:
        """Whether the next probe should come soon."""
        return bool(self.wrong or self.silent_probes or self._late or self.slow or self.too_late)

    def began(self, now: float) -> None:
        self.pending, self.began_at, self._late_of_pending = True, now, 0
        if self.waiting_since is None:
            self.waiting_since = now

    def ended(self, outcome: ProbeOutcome, now: float, *, judged: bool, excused: bool, crowded: bool) -> None:
        """Take a result. A worker that is ``judged`` by counters is slow with a late answer, and no more. It is
        ``excused`` for refusing the probe while others' requests make progress, and for being late if its own counters
        show that it was ``crowded`` with them."""
        self.pending = False
        verdict, self.reason = outcome.verdict, outcome.reason
        if verdict is not ProbeVerdict.TIMED_OUT:
            self.waiting_since = None
        match verdict:
            case ProbeVerdict.RIGHT:
                self._take_answer(now)
                self._count(late=False)
            case ProbeVerdict.SLOW:
                if not self._is_refusal(outcome):
                    self._take_answer(now)
                    self.too_late = outcome.seconds >= self.patience and not judged
                if not crowded and not self._late_of_pending:
                    self._count(late=True)
            case ProbeVerdict.WRONG:
                self.wrong, self.silent_probes = outcome.reason, 0
            case ProbeVerdict.SILENT:
                self.silent_probes += not excused
            case ProbeVerdict.TIMED_OUT if outcome.seconds < self._budget:
                self.waiting_since = None  # it could not be sent, for want of a descriptor or a route
            case ProbeVerdict.TIMED_OUT if not crowded and not self._late_of_pending:
                self._count(late=True)

    def answers(self, outcome: ProbeOutcome) -> bool:
        """Whether the worker has computed what was asked."""
        return outcome.verdict in (ProbeVerdict.RIGHT, ProbeVerdict.SLOW) and not self._is_refusal(outcome)

    def _is_refusal(self, outcome: ProbeOutcome) -> bool:
        """Whether the worker was asked too much, and said so quickly."""
        return outcome.verdict is ProbeVerdict.SLOW and outcome.seconds < self._budget

    def _take_answer(self, now: float) -> None:
        self.answered_at = now
        self.answered, self.wrong, self.silent_probes, self.too_late = True, "", 0, False

    def _count(self, *, late: bool) -> None:
        self._late, self._in_time = (self._late + 1, 0) if late else (0, self._in_time + 1)
        if self._late >= LATE_UNTIL_SLOW:
            self.slow = True
        elif self._in_time >= LATE_UNTIL_SLOW:
            self.slow = False

    def wait(self, now: float) -> None:
        """The pending probe still waits, with nobody ahead of it."""
        while self.pending and now >= self.late_at - CLOCK_ERROR:
            self._late_of_pending += 1
            self.reason = f"no answer to the probe within {self._late_of_pending * self._budget:g} s"
            self._count(late=True)

    @property
    def late_at(self) -> float:
        """When the pending probe is late the next time; infinity if none is pending."""
        return self.began_at + (self._late_of_pending + 1) * self._budget if self.pending else float("inf")

    def waited_too_long(self, moved_at: float, now: float) -> bool:
        """Whether an answer is missing for three budgets, in which nothing moved."""
        return self.waiting_since is not None and now - max(self.waiting_since, moved_at) >= self.patience

    def forgive_silence(self) -> None:
        """The worker has made progress: it was busy and not silent."""
        self.silent_probes, self.too_late = 0, False
