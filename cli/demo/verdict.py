"""What was promised, what was seen, and whether that breaks the promise. Pure.

A failed request or a wrong answer breaks a promise outright. A time is judged without what the machine was late by
meanwhile, as measured (lateness.py), and that is said. Up to ``target`` it is kept; up to three times the target it is
*strained*, shown with the figure and not held against the pool, because a slow machine does that too; beyond, or never
seen, it is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rumormill.cli.demo.request_log import RequestSummary

Mark = Literal["kept", "strained", "broken"]
SYMBOLS: dict[Mark, str] = {"kept": "✓", "strained": "!", "broken": "✗"}
STRAIN = 3.0
"""How far beyond its target a time may be before the promise counts as broken, on a machine we know nothing of."""


@dataclass(frozen=True, slots=True)
class TimePromise:
    """Something that happens within so many seconds."""

    what: str
    target: float
    seen: float | None
    """None: it did not happen while anybody waited."""
    late: float = 0.0
    """Seconds that this machine kept waiting whoever had a part in it; not counted."""

    @property
    def mark(self) -> Mark:
        if self.seen is None or self.seen - self.late > self.target * STRAIN:
            return "broken"
        return "kept" if self.seen - self.late <= self.target else "strained"

    @property
    def excused(self) -> bool:
        """Whether it is kept only without what the machine was late by."""
        return self.mark == "kept" and self.seen is not None and self.seen > self.target

    @property
    def promised_text(self) -> str:
        return f"within {duration(self.target)}"

    @property
    def seen_text(self) -> str:
        if self.seen is None:
            return "not seen"
        beyond = self.seen > self.target and self.late > 0
        return duration(self.seen) + (f" (this machine was late by {duration(self.late)})" if beyond else "")


@dataclass(frozen=True, slots=True)
class NonePromise:
    """Something that never happens."""

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
class FactPromise:
    """Something that is so."""

    what: str
    held: bool
    seen_text: str

    @property
    def mark(self) -> Mark:
        return "kept" if self.held else "broken"

    @property
    def promised_text(self) -> str:
        return "yes"


Promise = TimePromise | NonePromise | FactPromise


@dataclass(frozen=True, slots=True)
class ActReport:
    """One act, over."""

    name: str
    title: str
    seconds: float
    figures: RequestSummary
    promises: tuple[Promise, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class DemoVerdict:
    """All acts so far, and what was promised of the whole run."""

    acts: list[ActReport] = field(default_factory=list)
    interrupted: str | None = None
    """Why the run ended early, in one line."""

    @property
    def requests(self) -> int:
        return sum(act.figures.requests for act in self.acts)

    @property
    def promises(self) -> Iterator[tuple[str, Promise]]:
        """With the act's name; those of the whole run first, under the name ``always``."""
        requests = self.requests
        yield "always", NonePromise("failed requests", sum(a.figures.failed for a in self.acts), requests)
        yield "always", NonePromise("wrong answers", sum(a.figures.wrong for a in self.acts), requests)
        for act in self.acts:
            for promise in act.promises:
                yield act.name, promise

    def count(self, mark: Mark) -> int:
        return sum(promise.mark == mark for _, promise in self.promises)

    @property
    def ok(self) -> bool:
        """Seen to its end, requests sent, and no promise broken."""
        return self.interrupted is None and self.requests > 0 and self.count("broken") == 0

    @property
    def sentence(self) -> str:
        if self.interrupted is not None:
            return f"Not seen to its end: {self.interrupted}"
        if not self.requests:
            return "No request was sent, so nothing was shown."
        broken, strained = self.count("broken"), self.count("strained")
        if broken:
            return f"{broken} of {sum(1 for _ in self.promises)} promises broken."
        if strained:
            return f"No promise broken; {strained} strained (beyond the target, within {STRAIN:g} times of it)."
        excused = sum(isinstance(promise, TimePromise) and promise.excused for _, promise in self.promises)
        late = f"; {excused} without what this machine itself was late by" if excused else ""
        return f"Every promise kept{late}."

    def as_json(self) -> dict[str, Any]:
        """For machines: times in seconds."""
        return {
            "ok": self.ok,
            "verdict": self.sentence,
            "interrupted": self.interrupted,
            "requests": self.requests,
            "promises": [{"act": act, **_promise_json(promise)} for act, promise in self.promises],
            "acts": [_act_json(act) for act in self.acts],
        }


def _promise_json(promise: Promise) -> dict[str, Any]:
    match promise:
        case TimePromise():
            promised, seen = promise.target, promise.seen
        case NonePromise():
            promised, seen = 0, promise.seen
        case FactPromise():
            promised, seen = True, promise.held
    told = {"what": promise.what, "promised": promised, "seen": seen, "mark": promise.mark}
    return told | {"machine_late": round(promise.late, 5)} if isinstance(promise, TimePromise) else told


def _act_json(act: ActReport) -> dict[str, Any]:
    f = act.figures
    return {
        "act": act.name,
        "title": act.title,
        "seconds": round(act.seconds, 3),
        "requests": f.requests,
        "failed": f.failed,
        "wrong": f.wrong,
        "p50": round(f.p50, 5),
        "p99": round(f.p99, 5),
        "slowest": round(f.slowest, 5),
        "caller_late": round(f.late, 5),
        "troubles": [{"text": text, "times": times} for text, times in f.troubles],
        "notes": list(act.notes),
    }


def duration(seconds: float) -> str:
    """As a person reads it: 3.2 ms, 84 ms, .58 s, 12.3 s."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.2:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def plain_lines(verdict: DemoVerdict) -> list[str]:
    """The verdict without colours or boxes, for a log file."""
    if not verdict.requests:
        return [verdict.sentence]
    rows: list[tuple[str, ...]] = [("", "requests", "failed", "wrong", "p50", "p99", "slowest")]
    rows += [_figures_row(act) for act in verdict.acts]
    lines = _columns(rows, "<>>>>>>")
    lines.append("")
    promised = [
        (SYMBOLS[promise.mark], act, promise.what, promise.promised_text, promise.seen_text)
        for act, promise in verdict.promises
    ]
    lines += _columns([("", "act", "what", "promised", "seen"), *promised], "<<<<<")
    lines += ["", *_trouble_lines(verdict), verdict.sentence]
    return lines


def _figures_row(act: ActReport) -> tuple[str, ...]:
    f = act.figures
    counts = (str(f.requests), str(f.failed), str(f.wrong))
    return (act.title, *counts, duration(f.p50), duration(f.p99), duration(f.slowest))


def _trouble_lines(verdict: DemoVerdict) -> list[str]:
    lines = [f"{times} x in {act.name}: {text}" for act in verdict.acts for text, times in act.figures.troubles]
    return [*lines, ""] if lines else []


def _columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(sides))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
