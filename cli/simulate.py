"""``rumormill simulate``: runs the production protocol in a virtual network, for operators."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click
import msgspec

from rumormill.cli.exit_codes import INTERRUPTED, BadRequest, CliError
from rumormill.cli.output_file import write_output
from rumormill.cli.parallel_runs import OutcomeFile, play_all
from rumormill.cli.simulation_run import (
    InvariantViolated,
    conclude,
    format_count,
    format_number,
    job_of,
    play,
    progress_bar,
    result_pairs,
    side_title,
    summarize,
)
from rumormill.cli.tables import Column, show_line, show_pairs, show_table
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.invariants import InvariantViolation
from rumormill.simulations.operations import LATENCIES, InvalidStory, Story
from rumormill.simulations.plans import BASELINE, PLANS, PROTOCOLS, Job, JobOutcome, ProtocolName, UnknownPlan, plan
from rumormill.simulations.report import render_report
from rumormill.simulations.scenarios import SCENARIOS
from rumormill.simulations.slo import objectives

Delay = Annotated[float, msgspec.Meta(gt=0)]
C = TypeVar("C", bound=Callable[..., Any])
USUAL_PERIOD = 0.2
PROGRESS_LINE_SECONDS = 60.0
"""Seconds between two progress lines of a sweep without a terminal."""
EPILOG = """\b
Exit codes: 0 done; 1 an invariant was violated; 2 wrong flags or files;
130 Ctrl-C.
"""


class Stopped(CliError):
    """Ctrl-C."""

    exit_code = INTERRUPTED


class SimulateGroup(click.Group):
    """The group of simulation verbs. They may take hours and are often interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, but Ctrl-C has its own exit code, because 1 means a violated invariant."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("interrupted", "") from None


class FiniteRange(click.FloatRange):
    """A range of finite numbers. A plain range accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(number)


@click.group(cls=SimulateGroup, epilog=EPILOG)
def simulate() -> None:
    """Test a pool with failures, in virtual time.

    The members run the same protocol code as the sidecar, with real encoded and sealed datagrams. Only the clock and
    the network are virtual. The same seed always gives the same result.

    \b
      rumormill simulate scenarios
      rumormill simulate run even-split --nodes 64 --seed 7
      rumormill simulate compare crash --nodes 64 --with swim-tuned
      rumormill simulate sweep detection --seeds 5 --out lab.jsonl
      rumormill simulate report lab.jsonl --out lab.html
    """


def _run_options(command: C) -> C:
    for option in reversed(
        (
            click.option(
                "--nodes", type=click.IntRange(2, 10_000), help="Number of members; default: that of the scenario."
            ),
            click.option(
                "--loss",
                type=FiniteRange(0, 0.9),
                default=0.0,
                help="Additional loss on every link, 0 to 0.9.",
            ),
            click.option(
                "--latency",
                type=click.Choice(list(LATENCIES)),
                default="lan",
                show_default=True,
                help="Delay of every link.",
            ),
            click.option(
                "--period",
                type=FiniteRange(0.02, 10),
                default=USUAL_PERIOD,
                show_default=True,
                help="Heartbeat period of rumormill, in seconds.",
            ),
            click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", help="Output format."),
        )
    ):
        command = option(command)
    return command


@simulate.command(epilog=EPILOG)
def scenarios() -> None:
    """List the scenarios and the plans."""
    show_table(
        [
            Column("SCENARIO", lambda s: s.name),
            Column("NODES", lambda s: str(s.nodes), right=True),
            Column("WHAT HAPPENS", lambda s: s.about),
        ],
        SCENARIOS.values(),
        "",
    )
    show_line('\nThere is also a scenario for each cell of Lifeguard\'s grid, such as "lifeguard C=4 D=2048 I=64":')
    show_line("C of 128 members are frozen together for D ms and run for I ms, again and again for a minute.")
    show_pairs([(name, about) for name, (about, _) in PLANS.items()], "Plans (for sweep)")


@simulate.command(epilog=EPILOG)
@click.argument("scenario")
@click.option("--seed", type=click.IntRange(0, 2**62), default=1, show_default=True, help="Seed of the run.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="rumormill", show_default=True, help="What runs.")
@click.option("--judge/--no-judge", default=False, help="Check the invariants at every datagram; slower.")
@click.option("--story", "show_story", is_flag=True, help="Print the story first.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the story to a file, for `rumormill simulate replay`.",
)
@_run_options
def run(
    scenario: str,
    seed: int,
    protocol: ProtocolName,
    judge: bool,
    show_story: bool,
    save: Path | None,
    nodes: int | None,
    output: str,
    **conditions: Any,
) -> None:
    """Run one SCENARIO and show the result. Exits with code 1 if --judge finds a violated invariant.

    \b
      rumormill simulate run rack --nodes 200
      rumormill simulate run even-split --nodes 64 --loss 0.05 --judge
    """
    job = job_of(scenario, nodes, seed, protocol, **conditions)
    if judge and protocol != "rumormill":
        raise BadRequest("--judge checks invariants of rumormill only", "remove --judge, or --protocol")
    if job.period != USUAL_PERIOD and protocol != "rumormill":
        raise BadRequest(f"--period does not apply to {protocol}", "remove --period, or --protocol")
    if show_story:
        show_line(str(job.story()))
    if save is not None:
        write_output(save, job.story().to_json())
    played = play(job, judge=judge)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(played.outcome)))
        return
    show_pairs(result_pairs(played), f"{job.scenario}, {job.nodes} nodes, seed {job.seed}, {job.protocol}")


@simulate.command(epilog=EPILOG)
@click.argument("scenario")
@click.option("--with", "other", type=click.Choice(BASELINE), help="The other protocol; default: swim-tuned.")
@click.option("--other-period", type=FiniteRange(0.02, 10), help="Compare with this heartbeat period instead.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Number of runs.")
@_run_options
def compare(
    scenario: str,
    other: ProtocolName | None,
    other_period: float | None,
    seeds: int,
    nodes: int | None,
    output: str,
    **conditions: Any,
) -> None:
    """Run one SCENARIO with rumormill and with plain SWIM (or another period), and compare the results.

    \b
      rumormill simulate compare freeze --with swim-paper
      rumormill simulate compare crash --other-period 0.5
    """
    if other is not None and other_period is not None:
        raise BadRequest("--with and --other-period exclude each other", "run two comparisons")
    if other_period == conditions["period"]:
        raise BadRequest(f"both sides have a period of {other_period:g} s", "choose another --other-period")
    left = [job_of(scenario, nodes, seed, "rumormill", **conditions) for seed in range(seeds)]
    if other_period is not None:
        right = [msgspec.structs.replace(job, period=other_period) for job in left]
    else:
        right = [msgspec.structs.replace(job, protocol=other or "swim-tuned") for job in left]
    done = [play(job, judge=False).outcome for pair in zip(left, right, strict=True) for job in pair]
    sides = {side_title(left[0]): done[0::2], side_title(right[0]): done[1::2]}
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode({name: summarize(runs) for name, runs in sides.items()})))
        return
    summaries = [summarize(runs) for runs in sides.values()]
    rows = [(name, *(format_number(summary[name]) for summary in summaries)) for name in summaries[0]]
    show_line(f"\n{scenario}, {left[0].nodes} nodes, {format_count(seeds, 'seed')} each", "bold")
    titles = ("", *sides)
    show_table([Column(title, itemgetter(n), right=n > 0) for n, title in enumerate(titles)], rows, "")


@simulate.command(epilog=EPILOG)
@click.argument("name", metavar="PLAN")
@click.option("--seeds", type=click.IntRange(1, 100_000), default=3, show_default=True, help="Seeds for each cell.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("lab.jsonl"),
    show_default=True,
    help="File that outcomes are added to.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    help="Processes; default: one per core.",
)
@click.option("--max-nodes", type=click.IntRange(2, 10_000), help="Skip runs with more nodes.")
def sweep(name: str, seeds: int, out: Path, jobs: int, max_nodes: int | None) -> None:
    """Run a whole PLAN on all cores, with a progress bar.

    Each outcome is appended to a file at once. Runs whose outcome is in the file are skipped, so a sweep can be stopped
    and continued at any time. Several plans can use the same file, one after the other. Use a new file when the code
    has changed.

    \b
      rumormill simulate sweep scale --seeds 3 --out lab.jsonl
      rumormill simulate sweep lifeguard --seeds 10 --out lab.jsonl
    """
    try:
        wanted = [job for job in plan(name, seeds) if max_nodes is None or job.nodes <= max_nodes]
    except UnknownPlan as error:
        raise BadRequest(str(error), "`rumormill simulate scenarios` lists them") from None
    with OutcomeFile(out).open_for_append() as (known, append):
        _sweep(name, wanted, known, append, jobs, out)


def _sweep(
    name: str,
    wanted: Sequence[Job],
    known: Sequence[JobOutcome],
    append: Callable[[JobOutcome], None],
    jobs: int,
    out: Path,
) -> None:
    """Raises :class:`BadRequest`, :class:`Stopped`. The outcomes so far are then in the file."""
    keys = {done.job.key for done in known}
    todo = [job for job in wanted if job.key not in keys]
    show_line(f"{format_count(len(wanted), 'run')}, {len(wanted) - len(todo)} of them already in {out}")
    played, next_line = 0, time.monotonic() + PROGRESS_LINE_SECONDS
    with progress_bar() as progress:
        task = progress.add_task(f"{name}: 0 of {len(todo)}", total=sum(job.cost for job in todo))

        def keep(done: JobOutcome) -> None:
            nonlocal played, next_line
            append(done)
            played += 1
            text = f"{name}: {played} of {len(todo)}"
            progress.update(task, advance=done.job.cost, description=text)
            if progress.disable and time.monotonic() >= next_line:
                click.echo(text, err=True)
                next_line = time.monotonic() + PROGRESS_LINE_SECONDS

        try:
            play_all(todo, jobs, keep)
        except RuntimeError as error:
            raise BadRequest(str(error), f"the outcomes so far are in {out}") from None
        except KeyboardInterrupt:
            raise Stopped(
                f"interrupted: {played} of {format_count(len(todo), 'run')} done and saved in {out}",
                "run the same command again to continue",
            ) from None
    if todo:
        show_line(f"{format_count(played, 'run')} added to {out}")


@simulate.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("lab.html"),
    show_default=True,
    help="File for the page.",
)
@click.option(
    "--real",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Detection times measured on real sockets, for comparison: JSON {"nodes": [seconds, ...]}.',
)
def report(files: Sequence[Path], out: Path, real: Path | None) -> None:
    """Write a self-contained HTML page about the outcomes in FILES."""
    done = [done for file in files for done in OutcomeFile(file).read()]
    if not done:
        raise BadRequest("these files hold no outcomes", "make some with `rumormill simulate sweep`")
    measured: dict[int, list[float]] = {}
    if real is not None:
        try:
            measured = msgspec.json.decode(real.read_bytes(), type=dict[int, list[Delay]], strict=False)
        except OSError as error:
            raise BadRequest(f"cannot read {real}: {error.strerror}", "give another file") from None
        except msgspec.DecodeError as error:
            raise BadRequest(f"{real}: {error}", 'write it as {"3": [0.55, 0.61], "16": [0.57]}') from None
    write_output(out, render_report(done, measured).encode())
    columns = [Column(title, itemgetter(n)) for n, title in enumerate(("OBJECTIVE", "BOUND", "FOUND", "", "EVIDENCE"))]
    rows = [(p.claim, p.bound, p.found, "met" if p.met else "MISSED", p.evidence) for p in objectives(done, measured)]
    show_table(columns, rows, "")
    show_line(f"Wrote {out}: {format_count(len(done), 'run')}.")


@simulate.command(epilog=EPILOG)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--judge/--no-judge", default=True, show_default=True, help="Check the invariants at every datagram.")
@click.option(
    "--events", type=click.IntRange(0, 100_000), default=30, show_default=True, help="Number of last events to show."
)
def replay(file: Path, judge: bool, events: int) -> None:
    """Run the story in FILE again, byte for byte. Exits with code 1 if an invariant is violated."""
    try:
        story = Story.from_json(file.read_bytes())
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}", "give a file that --save or a test wrote") from None
    except InvalidStory as error:
        raise BadRequest(f"{file} is not a story: {error}", "give a file that --save or a test wrote") from None
    show_line(str(story))
    world = story.world()
    checker = InvariantChecker(world, story.settings) if judge else None
    try:
        story.play(world)
        conclusion = conclude(checker) if checker is not None else ""
    except InvalidStory as error:
        raise BadRequest(f"{file}: {error}", "start a host before using it, and use each name once") from None
    except InvariantViolation as violation:  # its text includes the events before
        raise InvariantViolated(str(violation)) from None
    if events:
        show_line(f"\n{world.history.tail(events)}")
    trace = world.trace.digest()  # must come first: it counts the datagrams that are not hashed yet
    show_line(f"\n{world.now:.3f} s, {world.trace.datagrams} datagrams, trace {trace}")
    if conclusion:
        show_line(conclusion)
