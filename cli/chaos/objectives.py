"""What the callers noticed of each fault, and whether the objectives are met. Pure: times are seconds of one clock.

A request is *bad* if it failed, was answered wrongly, or took longer than the latency objective. A fault's recovery
time ends with its last bad request; it is 0 where there was none. Requests count for the moment at which they ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rumormill.cli.chaos.schedule import FaultKind, ObjectivesSpec
from rumormill.cli.demo.request_log import RequestOutcome, RequestSummary, summarize
from rumormill.cli.demo.verdict import duration
from rumormill.simulations.slo import Objective

LEAST_WINDOW, MOST_WINDOW = 2.0, 30.0


@dataclass(slots=True)
class FaultTimes:
    """One fault, as it was done."""

    kind: FaultKind
    member: str
    begun: float
    left: int
    """The members that no fault held meanwhile."""
    evicted: float | None = None
    """When the last of the other sidecars had evicted it; None if not all did."""
    undone: float | None = None
    rejoined: float | None = None
    """When every sidecar sent work to it again; None if that was not seen."""

    @property
    def title(self) -> str:
        return f"{self.kind} of {self.member}"


@dataclass(frozen=True, slots=True)
class FaultSummary:
    """What callers noticed of one fault."""

    times: FaultTimes
    before: RequestSummary
    during: RequestSummary
    after: RequestSummary
    bad_before: int
    bad: int
    recovery: float
    """Seconds from its begin to the last bad request."""

    @property
    def rejoin(self) -> float | None:
        """Seconds from its end until it got work again everywhere."""
        times = self.times
        return None if times.undone is None or times.rejoined is None else max(0.0, times.rejoined - times.undone)


@dataclass(slots=True)
class ChaosVerdict:
    """The result of a run."""

    faults: list[FaultSummary] = field(default_factory=list)
    whole: RequestSummary = field(default_factory=RequestSummary)
    objectives: list[Objective] = field(default_factory=list)
    budget_spent: float = 0.0
    """The part of the error budget that is gone; above 1.0, more than there was."""
    stopped: str = ""
    """Why the run ended early; empty if it did not."""

    @property
    def ok(self) -> bool:
        return not self.stopped and all(objective.met for objective in self.objectives)

    @property
    def sentence(self) -> str:
        missed = [objective.claim for objective in self.objectives if not objective.met]
        whole = f"{len(self.faults)} faults, {self.whole.failed} of {self.whole.requests} requests failed"
        reason = f" {self.reason}" if self.reason else ""
        if self.stopped:
            return f"Stopped early: {self.stopped}.{reason} ({whole}.)"
        if missed:
            return f"Missed: {'; '.join(missed)}.{reason} ({whole}.)"
        return f"Every objective met: {whole}, {self.budget_spent:.0%} of the error budget spent."

    @property
    def reason(self) -> str:
        """What the faults with bad requests have in common, where that is the size of the pool."""
        for fault in self.faults:
            if fault.times.left == 0 and fault.during.failed:
                return f"The pool is too small: no worker was left during the {fault.times.title}."
        for fault in self.faults:
            requests = max(1, fault.during.requests + fault.after.requests)
            calm = fault.bad_before <= 0.01 * max(1, fault.before.requests)
            if calm and fault.bad > 0.1 * requests:
                return (
                    f"The pool is too small for this load: with {fault.times.left} workers left during the "
                    f"{fault.times.title}, {fault.bad / requests:.0%} of the requests failed or were slow."
                )
        return ""

    def as_json(self) -> dict[str, Any]:
        """For programs; times are in seconds."""
        return {
            "ok": self.ok,
            "verdict": self.sentence,
            "stopped": self.stopped or None,
            "requests": self.whole.requests,
            "failed": self.whole.failed,
            "wrong": self.whole.wrong,
            "error_budget_spent": round(self.budget_spent, 4),
            "p50": round(self.whole.p50, 5),
            "p99": round(self.whole.p99, 5),
            "objectives": [
                {"claim": o.claim, "bound": o.bound, "found": o.found, "met": o.met} for o in self.objectives
            ],
            "faults": [_fault_json(fault) for fault in self.faults],
        }


def judge(faults: Sequence[FaultTimes], outcomes: Sequence[RequestOutcome], spec: ObjectivesSpec) -> ChaosVerdict:
    """The verdict on a run, from all of its requests."""
    ends = [other.begun for other in faults[1:]] + [float("inf")]
    figures = [_figures(fault, outcomes, until, spec.latency) for fault, until in zip(faults, ends, strict=True)]
    whole = summarize(outcomes)
    allowed = (1 - spec.availability) * whole.requests
    spent = (whole.failed + whole.wrong) / allowed if allowed else 0.0
    verdict = ChaosVerdict(figures, whole, budget_spent=spent)
    verdict.objectives = [_availability(whole, spec, spent), _latency(whole, spec)]
    if figures:
        verdict.objectives += [_recovery(figures, spec), _rejoin(figures, spec)]
    return verdict


def _figures(fault: FaultTimes, outcomes: Sequence[RequestOutcome], until: float, latency: float) -> FaultSummary:
    undone = fault.undone if fault.undone is not None else fault.begun
    window = min(MOST_WINDOW, max(LEAST_WINDOW, undone - fault.begun))
    end = max(undone, min(undone + window, until))
    before = _between(outcomes, fault.begun - window, fault.begun)
    affected = _between(outcomes, fault.begun, end)
    bad = [outcome for outcome in affected if _is_bad(outcome, latency)]
    return FaultSummary(
        fault,
        summarize(before),
        summarize(_between(affected, fault.begun, undone)),
        summarize(_between(affected, undone, end)),
        bad_before=sum(_is_bad(outcome, latency) for outcome in before),
        bad=len(bad),
        recovery=max((outcome.ended for outcome in bad), default=fault.begun) - fault.begun,
    )


def _between(outcomes: Sequence[RequestOutcome], begin: float, end: float) -> list[RequestOutcome]:
    return [outcome for outcome in outcomes if begin <= outcome.ended < end]


def _is_bad(outcome: RequestOutcome, latency: float) -> bool:
    return outcome.trouble is not None or outcome.wrong is not None or outcome.seconds > latency


def _availability(whole: RequestSummary, spec: ObjectivesSpec, spent: float) -> Objective:
    bad = whole.failed + whole.wrong
    share = 1 - bad / whole.requests if whole.requests else 0.0
    return Objective(
        "requests answered rightly",
        f"≥ {spec.availability:.6g}",
        f"{share:.5f}",
        whole.requests > 0 and spent <= 1,
        f"{bad} of {whole.requests} not; {spent:.0%} of the error budget spent",
    )


def _latency(whole: RequestSummary, spec: ObjectivesSpec) -> Objective:
    met = whole.requests > 0 and whole.p99 <= spec.latency
    claim = "99 % of the requests are fast"
    return Objective(claim, f"≤ {duration(spec.latency)}", duration(whole.p99), met, f"{whole.requests} requests")


def _recovery(faults: Sequence[FaultSummary], spec: ObjectivesSpec) -> Objective:
    worst = max(faults, key=lambda fault: fault.recovery)
    return Objective(
        "callers recover from every fault",
        f"≤ {duration(spec.recovery)}",
        duration(worst.recovery),
        worst.recovery <= spec.recovery,
        f"longest: {worst.times.title}" if worst.recovery else f"{len(faults)} faults, none with a bad request",
    )


def _rejoin(faults: Sequence[FaultSummary], spec: ObjectivesSpec) -> Objective:
    away = [fault for fault in faults if fault.rejoin is None]
    worst = max((fault for fault in faults if fault.rejoin is not None), key=lambda f: f.rejoin or 0.0, default=None)
    found = "not seen" if away or worst is None else duration(worst.rejoin or 0.0)
    return Objective(
        "every member gets work again",
        f"≤ {duration(spec.rejoin)}",
        found,
        not away and worst is not None and (worst.rejoin or 0.0) <= spec.rejoin,
        f"{len(away)} of {len(faults)} not seen" if away else f"longest: {worst.times.title}" if worst else "",
    )


def _fault_json(fault: FaultSummary) -> dict[str, Any]:
    times = fault.times
    return {
        "kind": times.kind,
        "member": times.member,
        "left": times.left,
        "lasted": None if times.undone is None else round(times.undone - times.begun, 3),
        "evicted_after": None if times.evicted is None else round(times.evicted - times.begun, 3),
        "recovery": round(fault.recovery, 3),
        "rejoin": None if fault.rejoin is None else round(fault.rejoin, 3),
        "bad": fault.bad,
        **{
            when: {"requests": f.requests, "failed": f.failed, "p99": round(f.p99, 5)}
            for when, f in (("before", fault.before), ("during", fault.during), ("after", fault.after))
        },
    }
