"""``rumormill simulate``: the lab for operators. The very Node that runs in production, in a world of its own."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rumormill.cli.exit_codes import INTERRUPTED, BadRequest, CliError
from rumormill.cli.parallel_runs import OutcomeFile, play_all
from rumormill.cli.tables import Column, show_line, show_pairs, show_table
from rumormill.sidecar.file_writer import replace_file
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.invariants import InvariantViolation
from rumormill.simulations.operations import LATENCIES, InvalidStory, Story
from rumormill.simulations.outcome import RunOutcome, median, quantile
from rumormill.simulations.plans import BASELINE, PLANS, PROTOCOLS, Done, Job, ProtocolName, UnknownPlan, plan
from rumormill.simulations.report import render_report
from rumormill.simulations.scenarios import SCENARIOS, UnknownScenario, scenario_named
from rumormill.simulations.slo import objectives
from rumormill.simulations.world import World

Delay = Annotated[float, msgspec.Meta(gt=0)]
C = TypeVar("C", bound=Callable[..., Any])
BROKEN_LAW = 1
USUAL_PERIOD = 0.2
WORD_SECONDS = 60.0
"""Between two lines about a sweep that has no terminal for its bar."""
EPILOG = """\b
Exit codes: 0 done; 1 a law was broken; 2 wrong flags or files; 130 Ctrl-C.
"""


class LawBroken(click.ClickException):
    """A world in which the protocol broke one of its laws."""

    exit_code = BROKEN_LAW

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        """The law, what broke it, and what was concluded before."""
        click.echo(f"rumormill: a law was broken: {self.message}", err=True)


class Stopped(CliError):
    """Ctrl-C."""

    exit_code = INTERRUPTED


class Lab(click.Group):
    """The verbs of the lab, which may take hours and are stopped by hand."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; Ctrl-C has an exit code of its own, since 1 is a broken law."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("stopped", "") from None


class Finite(click.FloatRange):
    """A range without the number that is not one, which no bound keeps out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return float(number)


@click.group(cls=Lab, epilog=EPILOG)
def simulate() -> None:
    """Put a pool through trouble, in virtual time, before you trust it with yours.

    The members are the very protocol that runs in the sidecar, with real encoded, sealed datagrams; only the clock and
    the network are virtual, and one seed always gives one result.

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
                "--nodes", type=click.IntRange(2, 10_000), help="Members; each scenario has its usual number."
            ),
            click.option(
                "--loss", type=Finite(0, 0.9), default=0.0, help="Share of datagrams lost on every link besides."
            ),
            click.option("--latency", type=click.Choice(list(LATENCIES)), default="lan", show_default=True),
            click.option(
                "--period",
                type=Finite(0.02, 10),
                default=USUAL_PERIOD,
                show_default=True,
                help="Seconds between rumormill's heartbeats.",
            ),
            click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", help="How to show it."),
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
    show_line('\nAnd each cell of Lifeguard\'s grid, as run "lifeguard C=4 D=2048 I=64": C members of 128 frozen')
    show_line("together for D ms, free for I ms, again and again for a minute.")
    show_pairs([(name, about) for name, (about, _) in PLANS.items()], "Plans, for sweep")


@simulate.command(epilog=EPILOG)
@click.argument("scenario")
@click.option("--seed", type=click.IntRange(0, 2**62), default=1, show_default=True)
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="rumormill", show_default=True)
@click.option("--judge/--no-judge", default=False, help="Hold every member to the laws at every datagram; slower.")
@click.option("--story", "show_story", is_flag=True, help="Print the story first.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the story to a file, for replay (with rumormill).",
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
    """Play one SCENARIO and say what became of it. Exits with 1 where --judge finds a law broken.

    \b
      rumormill simulate run rack --nodes 200
      rumormill simulate run even-split --nodes 64 --loss 0.05 --judge
    """
    job = _job(scenario, nodes, seed, protocol, **conditions)
    if judge and protocol != "rumormill":
        raise BadRequest("the laws are rumormill's own", "leave --judge out, or --protocol")
    if job.period != USUAL_PERIOD and protocol != "rumormill":
        raise BadRequest(f"{protocol} has a period of its own", "leave --period out, or --protocol")
    if show_story:
        show_line(str(job.story()))
    if save is not None:
        _write(save, job.story().to_json())
    played = _play(job, judge=judge)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(played.outcome)))
        return
    show_pairs(_told(played), f"{job.scenario}, {job.nodes} nodes, seed {job.seed}, {job.protocol}")


@simulate.command(epilog=EPILOG)
@click.argument("scenario")
@click.option("--with", "other", type=click.Choice(BASELINE), help="Plain SWIM: swim-tuned unless given.")
@click.option("--other-period", type=Finite(0.02, 10), help="Compare with rumormill at this period instead.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True)
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
    """Play one SCENARIO with rumormill, and with plain SWIM or with another period, side by side.

    \b
      rumormill simulate compare freeze --with swim-paper
      rumormill simulate compare crash --other-period 0.5
    """
    if other is not None and other_period is not None:
        raise BadRequest("--with and --other-period are two comparisons", "make one after the other")
    if other_period == conditions["period"]:
        raise BadRequest(f"both sides have a period of {other_period:g} s", "give another --other-period, or --with")
    left = [_job(scenario, nodes, seed, "rumormill", **conditions) for seed in range(seeds)]
    if other_period is not None:
        right = [msgspec.structs.replace(job, period=other_period) for job in left]
    else:
        right = [msgspec.structs.replace(job, protocol=other or "swim-tuned") for job in left]
    done = [_play(job, judge=False).outcome for pair in zip(left, right, strict=True) for job in pair]
    sides = {_side(left[0]): done[0::2], _side(right[0]): done[1::2]}
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode({name: _summary(runs) for name, runs in sides.items()})))
        return
    summaries = [_summary(runs) for runs in sides.values()]
    rows = [(name, *(_number(summary[name]) for summary in summaries)) for name in summaries[0]]
    show_line(f"\n{scenario}, {left[0].nodes} nodes, {_count(seeds, 'seed')} each", "bold")
    titles = ("", *sides)
    show_table([Column(title, itemgetter(n), right=n > 0) for n, title in enumerate(titles)], rows, "")


@simulate.command(epilog=EPILOG)
@click.argument("name", metavar="PLAN")
@click.option("--seeds", type=click.IntRange(1, 100_000), default=3, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("lab.jsonl"), show_default=True)
@click.option("--jobs", type=click.IntRange(1, 256), default=os.cpu_count() or 1, help="Processes; one a core.")
@click.option("--max-nodes", type=click.IntRange(2, 10_000), help="Leave out runs of more nodes.")
def sweep(name: str, seeds: int, out: Path, jobs: int, max_nodes: int | None) -> None:
    """Play all runs of a PLAN on all cores, with a progress bar.

    Outcomes are added to a file as they come; what is in it already is not played again, so a sweep can be stopped and
    started as often as one likes, and several plans may share a file, one after the other. Begin another file when the
    code has changed.

    \b
      rumormill simulate sweep scale --seeds 3 --out lab.jsonl
      rumormill simulate sweep lifeguard --seeds 10 --out lab.jsonl
    """
    try:
        wanted = [job for job in plan(name, seeds) if max_nodes is None or job.nodes <= max_nodes]
    except UnknownPlan as error:
        raise BadRequest(str(error), "`rumormill simulate scenarios` lists them") from None
    with OutcomeFile(out).writing() as (known, append):
        _sweep(name, wanted, known, append, jobs, out)


def _sweep(
    name: str, wanted: Sequence[Job], known: Sequence[Done], append: Callable[[Done], None], jobs: int, out: Path
) -> None:
    """Raises :class:`BadRequest`, :class:`Stopped`; what was done by then is in the file."""
    keys = {done.job.key for done in known}
    todo = [job for job in wanted if job.key not in keys]
    show_line(f"{_count(len(wanted), 'run')}, {len(wanted) - len(todo)} of them in {out} already")
    played, next_word = 0, time.monotonic() + WORD_SECONDS
    with _progress() as progress:
        task = progress.add_task(f"{name}: 0 of {len(todo)}", total=sum(job.cost for job in todo))

        def keep(done: Done) -> None:
            nonlocal played, next_word
            append(done)
            played += 1
            told = f"{name}: {played} of {len(todo)}"
            progress.update(task, advance=done.job.cost, description=told)
            if progress.disable and time.monotonic() >= next_word:
                click.echo(told, err=True)
                next_word = time.monotonic() + WORD_SECONDS

        try:
            play_all(todo, jobs, keep)
        except RuntimeError as error:
            raise BadRequest(str(error), f"what was done is in {out}") from None
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped: {played} of {_count(len(todo), 'run')} played and kept in {out}",
                "the same command goes on from there",
            ) from None
    if todo:
        show_line(f"{_count(played, 'run')} added to {out}")


@simulate.command(epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("lab.html"), show_default=True)
@click.option(
    "--real",
    type=click.Path(dir_okay=False, path_type=Path),
    help='Detection measured on real sockets, to set beside: JSON {"nodes": [seconds, ...]}.',
)
def report(files: Sequence[Path], out: Path, real: Path | None) -> None:
    """Write one self-contained HTML page about the outcomes in FILES."""
    done = [done for file in files for done in OutcomeFile(file).read()]
    if not done:
        raise BadRequest("there is no outcome in these files", "`rumormill simulate sweep` makes some")
    measured: dict[int, list[float]] = {}
    if real is not None:
        try:
            measured = msgspec.json.decode(real.read_bytes(), type=dict[int, list[Delay]], strict=False)
        except OSError as error:
            raise BadRequest(f"cannot read {real}: {error.strerror}", "name another file") from None
        except msgspec.DecodeError as error:
            raise BadRequest(f"{real}: {error}", 'write it as {"3": [0.55, 0.61], "16": [0.57]}') from None
    _write(out, render_report(done, measured).encode())
    columns = [Column(title, itemgetter(n)) for n, title in enumerate(("PROMISE", "BOUND", "FOUND", "", "SEEN IN"))]
    rows = [(p.says, p.bound, p.found, "kept" if p.kept else "BROKEN", p.evidence) for p in objectives(done, measured)]
    show_table(columns, rows, "")
    show_line(f"Wrote {out}: {_count(len(done), 'run')}.")


@simulate.command(epilog=EPILOG)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--judge/--no-judge", default=True, show_default=True, help="Hold every member to the laws.")
@click.option("--events", type=click.IntRange(0, 100_000), default=30, show_default=True, help="Conclusions to show.")
def replay(file: Path, judge: bool, events: int) -> None:
    """Play a story from a FILE again, to the byte. Exits with 1 if a law is broken, as when it was saved."""
    try:
        story = Story.from_json(file.read_bytes())
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}", "name a file that --save or a test wrote") from None
    except InvalidStory as error:
        raise BadRequest(f"{file} is no story: {error}", "name a file that --save or a test wrote") from None
    show_line(str(story))
    world = story.world()
    guard = InvariantChecker(world, story.settings) if judge else None
    try:
        story.play(world)
        said = _conclude(guard) if guard is not None else ""
    except InvalidStory as error:
        raise BadRequest(f"{file}: {error}", "start a host before you do something to it, and no name twice") from None
    except InvariantViolation as violation:  # it tells what was concluded before
        raise LawBroken(str(violation)) from None
    if events:
        show_line(f"\n{world.history.tail(events)}")
    trace = world.trace.digest()  # first: it counts what is not hashed yet
    show_line(f"\n{world.now:.3f} s, {world.trace.datagrams} datagrams, trace {trace}")
    if said:
        show_line(said)


def _conclude(guard: InvariantChecker) -> str:
    """What to say at the end of a story that broke no law so far. Raises :class:`InvariantViolation`."""
    if standing := guard.disturbances():
        return f"No law was broken. Whether they come to one view cannot be said: at the end {standing}."
    return f"No law was broken; one view after {guard.calm():.1f} calm seconds."


def _job(scenario: str, nodes: int | None, seed: int, protocol: ProtocolName, **conditions: Any) -> Job:
    """A job that can be played. Raises :class:`BadRequest`."""
    try:
        if not scenario.startswith("lifeguard "):
            nodes = nodes or scenario_named(scenario).nodes
        job = Job(scenario, nodes or 128, seed, protocol, **conditions)
        job.story()
    except UnknownScenario as error:
        raise BadRequest(str(error), "`rumormill simulate scenarios` lists them") from None
    except ValueError as error:
        raise BadRequest(str(error), "give others, or leave --nodes out") from None
    return job


class Played(NamedTuple):
    """A run, the real seconds it took, and what the judge says of it, if there was one."""

    outcome: RunOutcome
    seconds: float
    verdict: str


def _play(job: Job, *, judge: bool) -> Played:
    """Raises :class:`LawBroken`."""
    story = job.story()
    guards: list[InvariantChecker] = []

    def watch(world: World) -> None:
        if judge:
            guards.append(InvariantChecker(world, story.settings))

    began = time.perf_counter()
    with _progress() as progress:
        task = progress.add_task(f"{job.scenario} ({job.protocol})", total=story.seconds)
        try:
            outcome = job.run(on_world=watch, on_progress=lambda now: progress.update(task, completed=now))
            verdict = " ".join(map(_conclude, guards))
        except InvariantViolation as violation:
            raise LawBroken(str(violation)) from None
    return Played(outcome, time.perf_counter() - began, verdict)


def _progress() -> Progress:
    """A bar on a terminal's standard error, and none in a pipe."""
    console = Console(stderr=True)
    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*parts, TimeRemainingColumn(), console=console, transient=True, disable=not sys.stderr.isatty())


def _told(played: Played) -> list[tuple[str, str]]:
    outcome = played.outcome
    summary = _summary([outcome])
    rate = outcome.seconds * outcome.nodes / played.seconds
    pairs = [(name, _number(value)) for name, value in summary.items() if value is not None]
    verdict = [("laws", played.verdict)] if played.verdict else []
    return [*pairs, *verdict, ("trace", outcome.trace), ("speed", f"{rate:.0f} node-seconds a second")]


def _summary(outcomes: Sequence[RunOutcome]) -> dict[str, float | None]:
    """The figures of some runs of one kind, by the names shown."""
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
        "wrong evictions": float(sum(len(o.wrong) for o in outcomes)),
        "suspicions": float(sum(o.suspicions for o in outcomes)),
        "datagrams/s and node": median(o.steady[0] for o in outcomes),
        "bytes/s and node": median(o.steady[1] for o in outcomes),
    }


def _side(job: Job) -> str:
    return f"{job.protocol}, {job.period:g} s" if job.protocol == "rumormill" else job.protocol


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _write(path: Path, text: bytes) -> None:
    """Raises :class:`BadRequest`; what was there before is there then. A pipe or a device is written to."""
    try:
        if path.is_file() or not path.exists():
            replace_file(path, text, mode=0o666)
        else:
            path.write_bytes(text)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "name another file") from None
