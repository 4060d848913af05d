"""Shows the demo: a live screen on a terminal, plain lines anywhere else, and the verdict at the end.

Drawing takes some milliseconds of the process that is also the caller, so the screen is drawn four times a second. The
delay that this causes for the caller is part of the figures.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import click
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rumormill.cli.demo.request_log import RequestLog, TimeBucket, shares, summarize
from rumormill.cli.demo.scenario import Phase
from rumormill.cli.demo.verdict import SYMBOLS, DemoVerdict, Mark, PhaseReport, Promise, duration
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.worker import Worker

REDRAW_SECONDS = 0.25
RECENT_SECONDS = 2.0
MAX_STREAMS = 4
STREAM_WIDTH = 64
"""Characters shown of a text that is arriving."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 9
_STYLES: dict[Mark, str] = {"kept": "green", "strained": "yellow", "broken": "bold red"}
_LIVENESS = {"alive": ("●", "green"), "suspect": ("◐", "yellow"), "gone": ("○", "red"), "silent": ("·", "dim")}
_MEMBER_STYLES = {"running": "green", "killed": "bold red", "frozen": "bold cyan", "draining": "yellow", "left": "dim"}


@dataclass(slots=True)
class ScreenState:
    """Everything that the screen shows. Its parts are updated by the scenario."""

    request_log: RequestLog
    answers: Mapping[str, WorkersAnswer]
    """The latest answer of each sidecar that can be reached."""
    member_states: Mapping[str, str]
    """The state of each member, in a word."""
    answered_by: str
    begun: float
    phase: Phase | None = None
    phase_count: int = 6
    streams: Callable[[], Sequence[tuple[str, str]]] = tuple
    """The answers that arrive token by token now: worker and text so far."""
    slice_seconds: float = 0.5
    """Length of a slice of the time line."""
    phase_starts: list[tuple[float, int]] = field(default_factory=list)
    """The start of each phase, and its number."""
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=7))


class LiveScreen:
    """A :class:`DemoOutput` that redraws the screen until cancelled."""

    def __init__(self, state: ScreenState, console: Console) -> None:
        self.state = state
        self.console = console

    def phase_started(self, phase: Phase) -> None:
        self.state.phase = phase
        self.state.phase_starts.append((phase.begun, phase.number))

    def note(self, text: str) -> None:
        at = time.monotonic() - self.state.begun
        number = f"{self.state.phase.number} " if self.state.phase else "  "
        self.state.messages.append(f"{at:5.1f} s  {number} {text}")

    def phase_ended(self, report: PhaseReport) -> None:
        f = report.figures
        self.note(f"{f.requests} requests, {f.failed} failed, {f.wrong} wrong, slowest {duration(f.slowest)}")

    async def run(self) -> None:
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(draw(self.state, time.monotonic()), refresh=True)
                await trio.sleep(REDRAW_SECONDS)

    def verdict(self, verdict: DemoVerdict) -> None:
        self.console.print(Text(f"answers: {self.state.answered_by}\n", "dim"))
        self.console.print(draw_verdict(verdict))


class PlainLog:
    """A :class:`DemoOutput` that prints a line for each event, for logs and pipes."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def phase_started(self, phase: Phase) -> None:
        self._say(f"{phase.number}. {phase.title}")

    def note(self, text: str) -> None:
        self._say(f"   {text}")

    def phase_ended(self, report: PhaseReport) -> None:
        f = report.figures
        self._say(
            f"   {f.requests} requests, {f.failed} failed, {f.wrong} wrong; "
            f"p50 {duration(f.p50)}, p99 {duration(f.p99)}, slowest {duration(f.slowest)}"
        )

    def _say(self, text: str) -> None:
        say(f"{time.monotonic() - self._begun:5.1f} s  {text}")


def say(text: str) -> None:
    """Print a line. If nobody reads standard output any more (``| head``), the demo continues without output."""
    try:
        click.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class NoOutput:
    """A :class:`DemoOutput` that prints nothing: ``--json`` shows only the verdict."""

    def phase_started(self, phase: Phase) -> None: ...

    def note(self, text: str) -> None: ...

    def phase_ended(self, report: PhaseReport) -> None: ...


def draw(state: ScreenState, now: float) -> RenderableType:
    """The whole screen at one moment."""
    legend = Text(" " * 18).append("  ".join(f"{sign} {word}" for word, (sign, _) in _LIVENESS.items()), "dim")
    parts: list[RenderableType] = [
        _heading(state, now),
        _members(state, now),
        legend,
        Text(),
        _streams(state),
        _time_line(state, now),
    ]
    return Group(*parts, _said(state))


def _heading(state: ScreenState, now: float) -> Text:
    title = Text.assemble(
        ("rumormill", "bold"),
        (f"  three workers, three sidecars, no balancer, no leader   {now - state.begun:5.1f} s\n", "dim"),
        (f"answers: {state.answered_by}\n", "dim"),
    )
    if state.phase is None:
        return title.append("starting …\n", "bold yellow")
    return title.append(f"{state.phase.number} of {state.phase_count}  {state.phase.title}\n", "bold yellow")


def _members(state: ScreenState, now: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("worker")
    table.add_column("is", min_width=8)
    table.add_column("seen by " + " ".join(state.member_states))
    table.add_column("readiness", min_width=9)
    table.add_column(f"share, {RECENT_SECONDS:g} s", min_width=_BAR_WIDTH + 5)
    for head in ("p99", "slowest"):
        table.add_column(head, justify="right", min_width=7)
    recent = state.request_log.recent(now, RECENT_SECONDS)
    parts = shares(recent)
    for name, doing in state.member_states.items():
        f = summarize([outcome for outcome in recent if outcome.worker == name])
        latencies = [duration(value) if f.requests else "–" for value in (f.p99, f.slowest)]
        table.add_row(
            Text(name, "bold"),
            Text(doing, _MEMBER_STYLES.get(doing, "yellow")),
            _seen_by(state, name),
            _readiness(state, name),
            _bar(parts.get(name, 0.0)),
            *latencies,
        )
    return table


def _seen_by(state: ScreenState, member: str) -> Text:
    """One symbol for each sidecar, under its name."""
    text = Text("        ")
    for observer, observer_is in state.member_states.items():
        sign, style = _LIVENESS[_word(state.answers.get(observer), member, observer_is)]
        text.append(f"{sign:{len(observer) + 1}}", style)
    return text


def _word(answer: WorkersAnswer | None, member: str, observer_is: str) -> str:
    if answer is None or observer_is == "frozen":
        return "silent"
    worker = _worker(answer, member)
    return worker.liveness if worker is not None else "gone"


def _worker(answer: WorkersAnswer, member: str) -> Worker | None:
    return next((worker for worker in answer.workers if worker.name == member), None)


def _readiness(state: ScreenState, member: str) -> Text:
    """The member's readiness as the other sidecars see it."""
    for observer, answer in state.answers.items():
        if observer != member and state.member_states[observer] == "running" and (worker := _worker(answer, member)):
            return Text(worker.readiness, "green" if worker.readiness == "passing" else "yellow")
    return Text("–", "dim")


def _bar(share: float) -> Text:
    filled = round(share * _BAR_WIDTH)
    return Text.assemble(("█" * filled, "blue"), ("░" * (_BAR_WIDTH - filled), "dim"), f" {share:4.0%}")


def _streams(state: ScreenState) -> Text:
    """The ends of the texts that arrive now, always as many lines, so that nothing below them jumps."""
    shown = list(state.streams())[:MAX_STREAMS]
    if not shown and state.streams is tuple:
        return Text()
    text = Text()
    for worker, words in shown:
        text.append(f"{worker:8}", "bold").append(" ".join(words.split())[-STREAM_WIDTH:] + "▌\n", "italic")
    return text.append("\n" * (MAX_STREAMS - len(shown)))


def _time_line(state: ScreenState, now: float) -> Text:
    """Requests and slowest request of each slice. The number of a phase is above its start."""
    begin = state.phase_starts[0][0] if state.phase_starts else now
    buckets = state.request_log.time_line(begin, now, state.slice_seconds)
    most = max((bucket.requests for bucket in buckets), default=1)
    phases = [" "] * max(len(buckets), 1)
    for at, number in state.phase_starts:
        phases[min(len(phases) - 1, int((at - begin) / state.slice_seconds))] = str(number)
    text = Text("   phase  ", "dim").append("".join(phases), "bold yellow")
    text.append("\nrequests  ", "dim")
    for bucket in buckets:
        text.append(*_request_sign(bucket, most))
    text.append(f"  {most / state.slice_seconds:.0f}/s at most", "dim")
    text.append("\n slowest  ", "dim")
    for bucket in buckets:
        text.append(_block(_log_height(bucket.slowest)), "yellow" if bucket.slowest > 0.1 else "blue")
    text.append("  ▁ 1 ms … █ 1 s", "dim")
    f = summarize(state.request_log.outcomes)
    text.append("\n   total  ", "dim")
    text.append(f"{f.requests} requests, p50 {duration(f.p50)}, p99 {duration(f.p99)}, max {duration(f.slowest)}, ")
    return text.append(f"{f.failed} failed, {f.wrong} wrong\n", "bold red" if f.failed or f.wrong else "bold green")


def _request_sign(bucket: TimeBucket, most: int) -> tuple[str, str]:
    if bucket.failed:
        return "✗", "bold red"
    return _block(bucket.requests / most if most else 0.0), "green"


def _block(height: float) -> str:
    """0.0 to 1.0 as one of eight blocks."""
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, int(height * len(_BLOCKS))))]


def _log_height(seconds: float) -> float:
    """The height of a bar on a logarithmic scale: 0.0 for 1 ms, 1.0 for 1 s."""
    return math.log10(max(seconds, 0.001) * 1000) / 3


def _said(state: ScreenState) -> Text:
    return Text("\n".join(state.messages), "dim")


def draw_verdict(verdict: DemoVerdict) -> RenderableType:
    """The figures of each phase, each promise with the measured value, and a summary sentence."""
    style = (
        "bold green" if verdict.ok and not verdict.count("strained") else "bold yellow" if verdict.ok else "bold red"
    )
    parts: list[RenderableType] = [
        _figures_table(verdict.phases),
        Text(),
        _promises_table(list(verdict.promises)),
        Text(),
    ]
    for phase in verdict.phases:
        parts += [Text(f"{times} x in {phase.name}: {text}", "red") for text, times in phase.figures.troubles]
    return Group(*parts, Text(verdict.sentence, style))


def _figures_table(phases: Sequence[PhaseReport]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("phase")
    for head in ("requests", "failed", "wrong", "p50", "p99", "slowest"):
        table.add_column(head, justify="right")
    for phase in phases:
        f = phase.figures
        counts = [Text(str(f.requests))]
        counts += [Text(str(count), "bold red" if count else "green") for count in (f.failed, f.wrong)]
        table.add_row(phase.title, *counts, duration(f.p50), duration(f.p99), duration(f.slowest))
    return table


def _promises_table(promises: Sequence[tuple[str, Promise]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in ("", "phase", "promise", "promised", "measured"):
        table.add_column(head)
    for phase, promise in promises:
        style = _STYLES[promise.mark]
        sign, seen = Text(SYMBOLS[promise.mark], style), Text(promise.seen_text, style)
        table.add_row(sign, phase, promise.what, promise.promised_text, seen)
    return table
