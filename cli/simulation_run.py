"""Runs one simulation, and describes its result in figures and texts."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rumormill.cli.exit_codes import BadRequest
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.invariants import InvariantViolation
from rumormill.simulations.outcome import RunOutcome, median, quantile
from rumormill.simulations.plans import Job, ProtocolName
from rumormill.simulations.scenarios import UnknownScenario, find_scenario
from rumormill.simulations.world import World

INVARIANT_BROKEN = 1
"""Exit code."""


class InvariantViolated(click.ClickException):
    """The protocol broke one of its invariants."""

    exit_code = INVARIANT_BROKEN

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        """The invariant, what broke it, and what happened before."""
        click.echo(f"rumormill: an invariant was violated: {self.message}", err=True)


def conclude(checker: InvariantChecker) -> str:
    """The verdict at the end of a run, in one sentence. Raises :class:`InvariantViolation`."""
    if remaining := checker.remaining_faults():
        return f"No invariant was violated. Convergence could not be checked: at the end {remaining}."
    return f"No invariant was violated. All members agreed after {checker.check_convergence():.1f} s without failures."


def job_of(scenario: str, nodes: int | None, seed: int, protocol: ProtocolName, **conditions: Any) -> Job:
    """The job with these parameters. Raises :class:`BadRequest` if they are invalid."""
    try:
        if not scenario.startswith("lifeguard "):
            nodes = nodes or find_scenario(scenario).nodes
        job = Job(scenario, nodes or 128, seed, protocol, **conditions)
        job.story()
    except UnknownScenario as error:
        raise BadRequest(str(error), "`rumormill simulate scenarios` lists them") from None
    except ValueError as error:
        raise BadRequest(str(error), "choose other values, or remove --nodes") from None
    return job


class PlayedRun(NamedTuple):
    """A run, the real seconds it took, and the verdict on the invariants (empty if they were not checked)."""

    outcome: RunOutcome
    seconds: float
    verdict: str


def play(job: Job, *, judge: bool) -> PlayedRun:
    """Run the job with a progress bar. Raises :class:`InvariantViolated`."""
    story = job.story()
    checkers: list[InvariantChecker] = []

    def watch(world: World) -> None:
        if judge:
            checkers.append(InvariantChecker(world, story.settings))

    began = time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task(f"{job.scenario} ({job.protocol})", total=story.seconds)
        try:
            outcome = job.run(on_world=watch, on_progress=lambda now: progress.update(task, completed=now))
            verdict = " ".join(map(conclude, checkers))
        except InvariantViolation as violation:
            raise InvariantViolated(str(violation)) from None
    return PlayedRun(outcome, time.perf_counter() - began, verdict)


def progress_bar() -> Progress:
    """A progress bar on stderr; none if stderr is not a terminal."""
    console = Console(stderr=True)
    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*parts, TimeRemainingColumn(), console=console, transient=True, disable=not sys.stderr.isatty())


def result_pairs(played: PlayedRun) -> list[tuple[str, str]]:
    outcome = played.outcome
    summary = summarize([outcome])
    rate = outcome.seconds * outcome.nodes / played.seconds
    pairs = [(name, format_number(value)) for name, value in summary.items() if value is not None]
    verdict = [("invariants", played.verdict)] if played.verdict else []
    return [*pairs, *verdict, ("trace", outcome.trace), ("speed", f"{rate:.0f} node-seconds a second")]


def summarize(outcomes: Sequence[RunOutcome]) -> dict[str, float | None]:
    """The summary of runs of one kind: the labels shown, and their values."""
    delays = [delay for outcome in outcomes for delay in outcome.detection_delays]
    firsts = [d.first for o in outcomes for d in o.detections if d.first is not None]
    lasts = [d.everywhere for o in outcomes for d in o.detections if d.everywhere is not None]
    missed = sum(d.everywhere is None for o in outcomes for d in o.detections if d.survivors)
    heals = [heal for o in outcomes for heal in o.heals if heal is not None]
    blocks = [block for o in outcomes for block in o.blocks]
    evicted = [block for block in blocks if block.evicted_by]
    back = [block.back_after for block in evicted if block.back_after is not None]
    return {
        "joined, s": median(o.joined_after for o in outcomes if o.joined_after is not None),
        "first eviction, s": median(firsts),
        "evicted everywhere, s": median(lasts),
        "evicted everywhere, slowest, s": max(lasts, default=None),
        "each survivor, 99 %, s": quantile(delays, 0.99),
        "deaths somebody missed": float(missed) if delays or missed else None,
        "pauses": float(len(blocks)) if blocks else None,
        "pauses that were an eviction": float(len(evicted)) if blocks else None,
        "back everywhere after a pause, s": median(back),
        "back everywhere after a pause, slowest, s": max(back, default=None),
        "one view after a heal, s": median(heals),
        "one view at the end, s": median(o.one_view_after for o in outcomes if o.one_view_after is not None),
        "no view at the end, runs": float(sum(o.one_view_after is None for o in outcomes)),
        "wrong evictions": float(sum(len(o.false_evictions) for o in outcomes)),
        "suspicions": float(sum(o.suspicions for o in outcomes)),
        "datagrams/s and node": median(o.steady[0] for o in outcomes),
        "bytes/s and node": median(o.steady[1] for o in outcomes),
    }


def side_title(job: Job) -> str:
    return f"{job.protocol}, {job.period:g} s" if job.protocol == "rumormill" else job.protocol


def format_number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"


def format_count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
