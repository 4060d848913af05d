"""What was promised, what was measured, and whether the promise was kept. Pure.

A failed request or a wrong answer breaks a promise. From a measured time, the machine's own scheduling delay is
deducted (scheduling_delay.py), and the output says so. A time up to its target is *kept*. A time up to three times the
target is *strained*: it is shown, but does not count against the pool, because a slow machine causes it too. Beyond
that, or if it did not happen, the promise is *broken*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rumormill.cli.demo.request_log import RequestSummary

Mark = Literal["kept", "strained", "broken"]
SYMBOLS: dict[Mark, str] = {"kept": "✓", "strained": "!", "broken": "✗"}
STRAIN = 3.0
"""A time up to this many times its target is not broken, because the speed of the machine is unknown."""


@dataclass(frozen=True, slots=True)
class DeadlinePromise:
    """Something happens within ``target`` seconds."""

    what: str
    target: float
    seen: float | None
    """The measured seconds; None if it did not happen in time."""
    late: float = 0.0
    """Seconds of scheduling delay on this machine, which are deducted."""

    @property
    def mark(self) -> Mark:
        if self.seen is None or self.seen - self.late > self.target * STRAIN:
            return "broken"
        return "kept" if self.seen - self.late <= self.target else "strained"

    @property
    def excused(self) -> bool:
        """Whether the promise is kept only because the scheduling delay is deducted."""
        return self.mark == "kept" and self.seen is not None and self.seen > self.target

    @property
    def promised_text(self) -> str:
        return f"within {duration(self.target)}"

    @property
    def seen_text(self) -> str:
        if self.seen is None:
            return "not seen"
        beyond = self.seen > self.target and self.late > 0
        return duration(self.seen) + (f" (this machine delayed it by {duration(self.late)})" if beyond else "")


@dataclass(frozen=True, slots=True)
class ZeroPromise:
    """Something never happens."""

    what: str
    seen: int
    of: int

    @property
    def mark(self) -> Mark:
        return "broken" if self.seen else "kept"

    @property
    def promised_text(self) -> str:
        return "none"

    @property
    def seen_text(self) -> str:
        return f"{self.seen} of {self.of}"


@dataclass(frozen=True, slots=True)
class OutcomePromise:
    """Something has a certain outcome."""

    what: str
    held: bool
    seen_text: str

    @property
    def mark(self) -> Mark:
        return "kept" if self.held else "broken"

    @property
    def promised_text(self) -> str:
        return "yes"


Promise = DeadlinePromise | ZeroPromise | OutcomePromise


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """A finished phase."""

    name: str
    title: str
    seconds: float
    figures: RequestSummary
    promises: tuple[Promise, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class DemoVerdict:
    """The finished phases, and the promises for the whole run."""

    phases: list[PhaseReport] = field(default_factory=list)
    interrupted: str | None = None
    """Why the run ended early, in one line; None if it did not."""

    @property
    def requests(self) -> int:
        return sum(phase.figures.requests for phase in self.phases)

    @property
    def promises(self) -> Iterator[tuple[str, Promise]]:
        """All promises with the name of their phase. Those for the whole run come first, with the name ``always``."""
        requests = self.requests
        yield "always", ZeroPromise("failed requests", sum(a.figures.failed for a in self.phases), requests)
        yield "always", ZeroPromise("wrong answers", sum(a.figures.wrong for a in self.phases), requests)
        for phase in self.phases:
            for promise in phase.promises:
                yield phase.name, promise

    def count(self, mark: Mark) -> int:
        return sum(promise.mark == mark for _, promise in self.promises)

    @property
    def ok(self) -> bool:
        """Whether the demo ran to its end, requests were sent, and no promise was broken."""
        return self.interrupted is None and self.requests > 0 and self.count("broken") == 0

    @property
    def sentence(self) -> str:
        if self.interrupted is not None:
            return f"The demo did not run to its end: {self.interrupted}"
        if not self.requests:
            return "No request was sent, so the demo has shown nothing."
        broken, strained = self.count("broken"), self.count("strained")
        if broken:
            return f"{broken} of {sum(1 for _ in self.promises)} promises broken."
        if strained:
            return f"No promise broken; {strained} strained (beyond the target, but within {STRAIN:g} times of it)."
        excused = sum(isinstance(promise, DeadlinePromise) and promise.excused for _, promise in self.promises)
        late = f"; {excused} of them after deducting the delay of this machine" if excused else ""
        return f"Every promise kept{late}."

    def as_json(self) -> dict[str, Any]:
        """For programs; times are in seconds."""
        return {
            "ok": self.ok,
            "verdict": self.sentence,
            "interrupted": self.interrupted,
            "requests": self.requests,
            "promises": [{"act": phase, **_promise_json(promise)} for phase, promise in self.promises],
            "acts": [_act_json(phase) for phase in self.phases],
        }


def _promise_json(promise: Promise) -> dict[str, Any]:
    match promise:
        case DeadlinePromise():
            promised, seen = promise.target, promise.seen
        case ZeroPromise():
            promised, seen = 0, promise.seen
        case OutcomePromise():
            promised, seen = True, promise.held
    told = {"what": promise.what, "promised": promised, "seen": seen, "mark": promise.mark}
    return told | {"machine_late": round(promise.late, 5)} if isinstance(promise, DeadlinePromise) else told


def _act_json(phase: PhaseReport) -> dict[str, Any]:
    f = phase.figures
    return {
        "act": phase.name,
        "title": phase.title,
        "seconds": round(phase.seconds, 3),
        "requests": f.requests,
        "failed": f.failed,
        "wrong": f.wrong,
        "p50": round(f.p50, 5),
        "p99": round(f.p99, 5),
        "slowest": round(f.slowest, 5),
        "caller_late": round(f.late, 5),
        "troubles": [{"text": text, "times": times} for text, times in f.troubles],
        "notes": list(phase.notes),
    }


def duration(seconds: float) -> str:
    """For people: 3.2 ms, 84 ms, 0.58 s, 12.3 s."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.2:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def plain_lines(verdict: DemoVerdict) -> list[str]:
    """The verdict without colors or boxes, for a log file."""
    if not verdict.requests:
        return [verdict.sentence]
    rows: list[tuple[str, ...]] = [("", "requests", "failed", "wrong", "p50", "p99", "slowest")]
    rows += [_figures_row(phase) for phase in verdict.phases]
    lines = _columns(rows, "<>>>>>>")
    lines.append("")
    promised = [
        (SYMBOLS[promise.mark], phase, promise.what, promise.promised_text, promise.seen_text)
        for phase, promise in verdict.promises
    ]
    lines += _columns([("", "phase", "promise", "promised", "measured"), *promised], "<<<<<")
    lines += ["", *_trouble_lines(verdict), verdict.sentence]
    return lines


def _figures_row(phase: PhaseReport) -> tuple[str, ...]:
    f = phase.figures
    counts = (str(f.requests), str(f.failed), str(f.wrong))
    return (phase.title, *counts, duration(f.p50), duration(f.p99), duration(f.slowest))


def _trouble_lines(verdict: DemoVerdict) -> list[str]:
    lines = [f"{times} x in {phase.name}: {text}" for phase in verdict.phases for text, times in phase.figures.troubles]
    return [*lines, ""] if lines else []


def _columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(sides))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
