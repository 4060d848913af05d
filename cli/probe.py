"""``rumormill probe``: tries a probe once, and says in plain words what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import trio

from rumormill.cli.exit_codes import (
    EPILOG,
    PROBE_SILENT,
    PROBE_SLOW,
    PROBE_TIMED_OUT,
    PROBE_WRONG,
    BadRequest,
)
from rumormill.cli.http_client import output_option
from rumormill.cli.tables import STYLES, show_line, show_pairs
from rumormill.sidecar import SettingsError
from rumormill.sidecar.counters import BadCounters, CounterReading
from rumormill.sidecar.counters.counter_reader import CounterReader, CounterSource
from rumormill.sidecar.engines import ENGINES
from rumormill.sidecar.health.plan import counter_source
from rumormill.sidecar.health.worker_health import ASLEEP_TEXT
from rumormill.sidecar.probes import Probe, ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.build import PROBE_NAMES, build_probe, needs_file, probe_spec
from rumormill.sidecar.probes.specification import HttpSpec
from rumormill.sidecar.settings_values import BadValue, Seconds, WorkerUrl

if TYPE_CHECKING:
    from rumormill.sidecar.engines import EngineProfile

EXIT_CODES = {
    ProbeVerdict.RIGHT: 0,
    ProbeVerdict.SLOW: PROBE_SLOW,
    ProbeVerdict.WRONG: PROBE_WRONG,
    ProbeVerdict.SILENT: PROBE_SILENT,
    ProbeVerdict.TIMED_OUT: PROBE_TIMED_OUT,
}
TOLD = {
    ProbeVerdict.RIGHT: "passing: callers send it its keys.",
    ProbeVerdict.SLOW: "nothing yet; warning if the next answer is late too: callers then send it half of its keys.",
    ProbeVerdict.WRONG: "critical, at once: callers send it nothing new.",
    ProbeVerdict.SILENT: "nothing yet; critical at the third time in a row: callers then send it nothing new.",
    ProbeVerdict.TIMED_OUT: "nothing while the engine's counters move; critical if they stand still or there are none "
    "and it goes on answering nothing.",
}
"""What a sidecar tells the pool of a worker that has been passing."""
VERDICT_STYLES = {"right": "passing", "slow": "warning"}


class ProbeStep(msgspec.Struct):
    """One thing that was asked. ``-o json`` gives these."""

    what: str
    asked: str
    came: str
    expected: str
    verdict: str
    reason: str
    seconds: float


class Report(msgspec.Struct):
    """All that was tried, and what the pool would be told of it."""

    worker: str
    steps: list[ProbeStep]
    verdict: str
    pool_would_be_told: str


@click.command(epilog=EPILOG)
@click.option("--worker", metavar="URL", required=True, help="URL of the inference server.")
@click.option("--engine", type=click.Choice(list(ENGINES)), help="The engine: asks its readiness path and its probe.")
@click.option("--probe", "kind", metavar="KIND", default="", help=f"What is asked: {', '.join(PROBE_NAMES)}.")
@click.option(
    "--probe-file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file that says what is asked."
)
@click.option("--worker-metrics", metavar="URL", help="URL of the page with the engine's counters.")
@click.option("--record", is_flag=True, help="Write the vector of this healthy worker into the probe file as golden.")
@output_option
@click.pass_context
def probe(
    ctx: click.Context,
    worker: str,
    engine: str | None,
    kind: str,
    probe_file: Path | None,
    worker_metrics: str | None,
    record: bool,
    output: str,
) -> None:
    """Ask a worker what its sidecar would ask, once, and show what a sidecar would conclude.

    \b
      rumormill probe --engine vllm --worker http://127.0.0.1:8000
      rumormill probe --probe embeddings --worker http://127.0.0.1:8080
      rumormill probe --probe-file probe.toml --worker http://127.0.0.1:8080 -o json
    With --record the vector of a worker that is known to be well becomes the
    golden vector of the probe file, which is created if it is not there:
      rumormill probe --record --probe embeddings --probe-file probe.toml --worker http://127.0.0.1:8080

    It exits with 0 if the answer is right, 9 if it is right and late, 10 if it is wrong, 11 if the worker refuses or
    closes the connection, 12 if it does not answer in time.
    """
    try:
        url = WorkerUrl.parse(worker)
        if record:
            from rumormill.cli.probe_record import record_golden

            show_line(record_golden(url, kind, probe_file))
            return
        profile = ENGINES[engine] if engine else None
        page = WorkerUrl.parse(worker_metrics) if worker_metrics else None
        probes = _probes(url, profile, kind, probe_file)
    except BadValue as error:
        raise BadRequest(str(error), error.hint) from None
    except SettingsError as error:
        raise BadRequest(error.message, error.hint) from None
    outcomes = [(what, one, trio.run(one.run)) for what, one in probes]
    worst = max((outcome for _, _, outcome in outcomes), key=lambda outcome: EXIT_CODES[outcome.verdict])
    report = _report(url, outcomes, worst)
    source = counter_source(url, profile, page) if profile else None
    if source is not None:
        step, asleep = _counters_step(source)
        report.steps.insert(1, step)
        if asleep:
            report = msgspec.structs.replace(report, pool_would_be_told=f"starting: {ASLEEP_TEXT}, and is not probed.")
    _show(report, output)
    ctx.exit(EXIT_CODES[worst.verdict])


def _probes(
    url: WorkerUrl, engine: EngineProfile | None, kind: str, probe_file: Path | None
) -> list[tuple[str, Probe]]:
    """What is to be asked: of an engine, its readiness path first."""
    default = engine.probe.value if engine else "none"
    spec = probe_spec(kind, probe_file, default)
    probes = [] if spec is None else [("probe", build_probe(spec, url))]
    if engine is not None:
        probes.insert(0, ("readiness", _readiness_probe(url, engine)))
        if spec is None and not kind and needs_file(default):
            text = f"the {default} probe of {engine.title} is left out: it needs --probe-file (docs/run/probes.md)"
            click.echo(f"rumormill: {text}", err=True)
    if not probes:
        raise SettingsError(
            "nothing would be asked", f"add --engine, --probe-file, or --probe with one of {', '.join(PROBE_NAMES[:3])}"
        )
    return probes


def _readiness_probe(url: WorkerUrl, engine: EngineProfile) -> Probe:
    patience = Seconds(engine.readiness_timeout)
    return build_probe(HttpSpec(path=engine.readiness_path, budget=patience, give_up=patience), url)


def _report(url: WorkerUrl, outcomes: Sequence[tuple[str, Probe, ProbeOutcome]], worst: ProbeOutcome) -> Report:
    steps = [
        ProbeStep(
            what=what,
            asked=one.description,
            came=outcome.answer or outcome.reason,
            expected=one.expected,
            verdict=outcome.verdict.value,
            reason=outcome.reason,
            seconds=round(outcome.seconds, 6),
        )
        for what, one, outcome in outcomes
    ]
    return Report(str(url), steps, worst.verdict.value, TOLD[worst.verdict])


async def _read_counters(source: CounterSource) -> CounterReading:
    reader = CounterReader()
    reader.configure(source)
    try:
        return await reader.read()
    finally:
        reader.close()


def _counters_step(source: CounterSource) -> tuple[ProbeStep, bool]:
    """What the engine's counters say, and whether it sleeps. Counters that cannot be read are no evidence."""
    started, asleep = time.monotonic(), False
    try:
        reading = trio.run(_read_counters, source)
        came, verdict, asleep = _figures(reading, source), "known", reading.asleep
    except BadCounters as error:
        came, verdict = str(error), "not known: a sidecar judges the worker by its check and probe alone"
    step = ProbeStep(
        what="counters",
        asked=f"GET {source.url}{source.path}",
        came=came,
        expected=f"how many requests run and wait, and what shows that a {source.counters.progress_unit}",
        verdict=verdict,
        reason=came,
        seconds=round(time.monotonic() - started, 6),
    )
    return step, asleep


def _figures(reading: CounterReading, source: CounterSource) -> str:
    figures = {
        "running": reading.running,
        "waiting": reading.waiting,
        "cache use": None if reading.cache_use is None else f"{reading.cache_use:.0%}",
        "capacity": reading.capacity,
        "progress": None if reading.progress is None else f"{reading.progress:g}",
    }
    known = [f"{name} {value}" for name, value in figures.items() if value is not None]
    if reading.progress is None:
        raise BadCounters(f"{source.url}{source.path} has no counter that shows progress")
    return ", ".join(known)


def _show(report: Report, output: str) -> None:
    if output == "json":
        click.echo(msgspec.json.encode(report))
        return
    for step in report.steps:
        came = f"{step.came}, after {step.seconds:.3g} s"
        pairs = [("asked", step.asked), ("came", came), ("expected", step.expected), ("so it is", step.verdict)]
        if step.verdict != ProbeVerdict.RIGHT.value and step.reason not in (step.came, ""):
            pairs.append(("because", step.reason))
        show_pairs(pairs, step.what)
    style = VERDICT_STYLES.get(report.verdict, "critical")
    show_line(f"\nThe pool would be told: {report.pool_would_be_told}", STYLES[style])
