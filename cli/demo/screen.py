"""The demo as people see it: a live screen on a terminal, plain lines anywhere else, and the verdict at the end.

A drawing takes some milliseconds of the process that also is the caller, so there are four a second and no more; how
late that makes the caller is part of the figures.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rumormill.cli.demo.request_log import RequestLog, TimeBucket, figures, shares
from rumormill.cli.demo.story import Act
from rumormill.cli.demo.verdict import SYMBOLS, ActReport, DemoVerdict, Mark, Promise, duration
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.worker import Worker

REDRAW_SECONDS = 0.25
RECENT_SECONDS = 2.0
_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 9
_STYLES: dict[Mark, str] = {"kept": "green", "strained": "yellow", "broken": "bold red"}
_LIVENESS = {"alive": ("●", "green"), "suspect": ("◐", "yellow"), "gone": ("○", "red"), "silent": ("·", "dim")}
_DOING = {"running": "green", "killed": "bold red", "frozen": "bold cyan", "draining": "yellow", "left": "dim"}


@dataclass(slots=True)
class Scene:
    """All that a drawing is made of; the parts are live and change under it."""

    ledger: RequestLog
    answers: Mapping[str, WorkersAnswer]
    """The latest answer of each sidecar that can be reached."""
    doing: Mapping[str, str]
    """What has been done to each member."""
    answered_by: str
    begun: float
    act: Act | None = None
    acts_in_all: int = 6
    slice_seconds: float = 0.5
    """Of the time line."""
    marks: list[tuple[float, int]] = field(default_factory=list)
    """When each act began, and its number."""
    said: deque[str] = field(default_factory=lambda: deque(maxlen=7))


class LiveScreen:
    """Redraws the scene on a terminal until cancelled. An audience of the story."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self.scene = scene
        self.console = console

    def begins(self, act: Act) -> None:
        self.scene.act = act
        self.scene.marks.append((act.begun, act.number))

    def notes(self, text: str) -> None:
        at = time.monotonic() - self.scene.begun
        number = f"{self.scene.act.number} " if self.scene.act else "  "
        self.scene.said.append(f"{at:5.1f} s  {number} {text}")

    def ends(self, report: ActReport) -> None:
        f = report.figures
        self.notes(f"{f.requests} requests, {f.failed} failed, {f.wrong} wrong, slowest {duration(f.slowest)}")

    async def run(self) -> None:
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(draw(self.scene, time.monotonic()), refresh=True)
                await trio.sleep(REDRAW_SECONDS)

    def verdict(self, verdict: DemoVerdict) -> None:
        self.console.print(Text(f"answers: {self.scene.answered_by}\n", "dim"))
        self.console.print(draw_verdict(verdict))


class PlainLog:
    """A line for each thing that happens, for logs and pipes. An audience of the story."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def begins(self, act: Act) -> None:
        self._say(f"{act.number}. {act.title}")

    def notes(self, text: str) -> None:
        self._say(f"   {text}")

    def ends(self, report: ActReport) -> None:
        f = report.figures
        self._say(
            f"   {f.requests} requests, {f.failed} failed, {f.wrong} wrong; "
            f"p50 {duration(f.p50)}, p99 {duration(f.p99)}, slowest {duration(f.slowest)}"
        )

    def _say(self, text: str) -> None:
        say(f"{time.monotonic() - self._begun:5.1f} s  {text}")


def say(text: str) -> None:
    """A line on standard output; where the reader has gone away (``| head``), the demo goes on unheard."""
    try:
        click.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Silence:
    """An audience that is not there: with ``--json`` only the verdict is said."""

    def begins(self, act: Act) -> None: ...

    def notes(self, text: str) -> None: ...

    def ends(self, report: ActReport) -> None: ...


def draw(scene: Scene, now: float) -> RenderableType:
    """The whole screen at one moment."""
    legend = Text(" " * 18).append("  ".join(f"{sign} {word}" for word, (sign, _) in _LIVENESS.items()), "dim")
    return Group(_heading(scene, now), _members(scene, now), legend, Text(), _time_line(scene, now), _said(scene))


def _heading(scene: Scene, now: float) -> Text:
    title = Text.assemble(
        ("rumormill", "bold"),
        (f"  three workers, three sidecars, no balancer, no leader   {now - scene.begun:5.1f} s\n", "dim"),
        (f"answers: {scene.answered_by}\n", "dim"),
    )
    if scene.act is None:
        return title.append("starting …\n", "bold yellow")
    return title.append(f"{scene.act.number} of {scene.acts_in_all}  {scene.act.title}\n", "bold yellow")


def _members(scene: Scene, now: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("worker")
    table.add_column("is", min_width=8)
    table.add_column("seen by " + " ".join(scene.doing))
    table.add_column("readiness", min_width=9)
    table.add_column(f"share, {RECENT_SECONDS:g} s", min_width=_BAR_WIDTH + 5)
    for head in ("p99", "slowest"):
        table.add_column(head, justify="right", min_width=7)
    recent = scene.ledger.recent(now, RECENT_SECONDS)
    parts = shares(recent)
    for name, doing in scene.doing.items():
        f = figures([outcome for outcome in recent if outcome.worker == name])
        latencies = [duration(value) if f.requests else "–" for value in (f.p99, f.slowest)]
        table.add_row(
            Text(name, "bold"),
            Text(doing, _DOING.get(doing, "yellow")),
            _seen_by(scene, name),
            _readiness(scene, name),
            _bar(parts.get(name, 0.0)),
            *latencies,
        )
    return table


def _seen_by(scene: Scene, member: str) -> Text:
    """One sign for each sidecar, under its name."""
    text = Text("        ")
    for observer, observer_is in scene.doing.items():
        sign, style = _LIVENESS[_word(scene.answers.get(observer), member, observer_is)]
        text.append(f"{sign:{len(observer) + 1}}", style)
    return text


def _word(answer: WorkersAnswer | None, member: str, observer_is: str) -> str:
    if answer is None or observer_is == "frozen":
        return "silent"
    worker = _worker(answer, member)
    return worker.liveness if worker is not None else "gone"


def _worker(answer: WorkersAnswer, member: str) -> Worker | None:
    return next((worker for worker in answer.workers if worker.name == member), None)


def _readiness(scene: Scene, member: str) -> Text:
    """As the others hear of it."""
    for observer, answer in scene.answers.items():
        if observer != member and scene.doing[observer] == "running" and (worker := _worker(answer, member)):
            return Text(worker.readiness, "green" if worker.readiness == "passing" else "yellow")
    return Text("–", "dim")


def _bar(share: float) -> Text:
    filled = round(share * _BAR_WIDTH)
    return Text.assemble(("█" * filled, "blue"), ("░" * (_BAR_WIDTH - filled), "dim"), f" {share:4.0%}")


def _time_line(scene: Scene, now: float) -> Text:
    """Requests and slowest request of each slice, with the number of the act above where it began."""
    begin = scene.marks[0][0] if scene.marks else now
    buckets = scene.ledger.line(begin, now, scene.slice_seconds)
    most = max((bucket.requests for bucket in buckets), default=1)
    acts = [" "] * max(len(buckets), 1)
    for at, number in scene.marks:
        acts[min(len(acts) - 1, int((at - begin) / scene.slice_seconds))] = str(number)
    text = Text("     act  ", "dim").append("".join(acts), "bold yellow")
    text.append("\nrequests  ", "dim")
    for bucket in buckets:
        text.append(*_request_sign(bucket, most))
    text.append(f"  {most / scene.slice_seconds:.0f}/s at most", "dim")
    text.append("\n slowest  ", "dim")
    for bucket in buckets:
        text.append(_block(_log_height(bucket.slowest)), "yellow" if bucket.slowest > 0.1 else "blue")
    text.append("  ▁ 1 ms … █ 1 s", "dim")
    f = figures(scene.ledger.outcomes)
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
    """1 ms is the floor and 1 s the ceiling, with equal steps for equal factors."""
    return math.log10(max(seconds, 0.001) * 1000) / 3


def _said(scene: Scene) -> Text:
    return Text("\n".join(scene.said), "dim")


def draw_verdict(verdict: DemoVerdict) -> RenderableType:
    """The figures of each act, each promise beside what was seen, and one sentence."""
    style = (
        "bold green" if verdict.ok and not verdict.count("strained") else "bold yellow" if verdict.ok else "bold red"
    )
    parts: list[RenderableType] = [
        _figures_table(verdict.acts),
        Text(),
        _promises_table(list(verdict.promises)),
        Text(),
    ]
    for act in verdict.acts:
        parts += [Text(f"{times} x in {act.name}: {text}", "red") for text, times in act.figures.troubles]
    return Group(*parts, Text(verdict.sentence, style))


def _figures_table(acts: Sequence[ActReport]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("act")
    for head in ("requests", "failed", "wrong", "p50", "p99", "slowest"):
        table.add_column(head, justify="right")
    for act in acts:
        f = act.figures
        counts = [Text(str(f.requests))]
        counts += [Text(str(count), "bold red" if count else "green") for count in (f.failed, f.wrong)]
        table.add_row(act.title, *counts, duration(f.p50), duration(f.p99), duration(f.slowest))
    return table


def _promises_table(promises: Sequence[tuple[str, Promise]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in ("", "act", "promise", "promised", "seen"):
        table.add_column(head)
    for act, promise in promises:
        style = _STYLES[promise.mark]
        sign, seen = Text(SYMBOLS[promise.mark], style), Text(promise.seen_text, style)
        table.add_row(sign, act, promise.what, promise.promised_text, seen)
    return table
