"""``rumormill plan``: how many workers a peak needs, so that some of them may fail. Only arithmetic."""

from __future__ import annotations

import math
from typing import Final

import click
import msgspec

from rumormill.cli.exit_codes import EPILOG, BadRequest
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import service_option, write_json
from rumormill.cli.tables import Column, show_line, show_table
from rumormill.discovery.schema.answers import PoolAnswer

MAX_WORKERS: Final = 100_000


class Step(msgspec.Struct, frozen=True):
    """The pool after so many failures."""

    failed: int
    workers: int
    utilization: float
    """Utilization of the workers that are left; 1.0 is full."""


class Plan(msgspec.Struct, frozen=True):
    """N workers for the peak, and F more that may fail."""

    peak: float
    per_worker: float
    target: float
    """The utilization that the peak may cause once all F have failed."""
    needed: int
    """N."""
    failures: int
    """F."""
    workers: int
    """N + F."""
    steps: list[Step]
    """From no failure to one more than planned, if any worker is left then."""


def make_plan(peak: float, per_worker: float, failures: int, target: float = 1.0) -> Plan:
    """N = ceil(peak / (per_worker * target)), and F more. The units of `peak` and `per_worker` must be equal."""
    needed = max(math.ceil(peak / (per_worker * target) - 1e-9), 1)
    workers = needed + failures
    steps = [
        Step(failed, workers - failed, round(peak / ((workers - failed) * per_worker), 4))
        for failed in range(min(failures + 2, workers))
    ]
    return Plan(peak, per_worker, target, needed, failures, workers, steps)


COLUMNS: tuple[Column[Step], ...] = (
    Column("FAILED", lambda s: str(s.failed), right=True),
    Column("WORKERS", lambda s: str(s.workers), right=True),
    Column("UTILIZATION", lambda s: f"{s.utilization:.0%}", right=True),
    Column("", lambda s: "more than the rest can do" if s.utilization > 1 else ""),
)


@click.command(epilog=EPILOG)
@click.option(
    "--peak", type=click.FloatRange(min=0, min_open=True), help="Work at the peak, such as requests a second."
)
@click.option(
    "--per-worker", type=click.FloatRange(min=0, min_open=True), help="What one worker can do, in the same unit."
)
@click.option("--failures", type=click.IntRange(0, 1000), default=1, show_default=True, help="Workers that may fail.")
@click.option(
    "--target",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Utilization allowed once they have failed.",
)
@click.option("--from", "source", metavar="URL", help="A sidecar whose pool fills in what is not given.")
@service_option
@sidecar_options
@output_option
def plan(
    sidecar: SidecarClient,
    peak: float | None,
    per_worker: float | None,
    failures: int,
    target: float,
    source: str | None,
    service: str | None,
    output: str,
) -> None:
    """Show how many workers a peak needs so that some may fail: N + F, with the utilization after each failure.

    With --from, a missing --per-worker is 1 (one worker of weight 1), and a missing --peak is what the pool does now:
    its capacity times its mean utilization.

    \b
      rumormill plan --peak 400 --per-worker 50 --failures 2
      rumormill plan --from http://10.0.0.5:7380 --service embed --failures 2
      rumormill plan --from http://10.0.0.5:7380 --per-worker 50 -o json | jq .workers
    """
    measured = _measured(sidecar.at(source), service) if source is not None else None
    if measured is not None:
        per_worker = 1.0 if per_worker is None else per_worker
        peak = measured * per_worker if peak is None else peak
    if peak is None or per_worker is None:
        raise BadRequest("--peak and --per-worker are needed", "give both, or --from with the address of a sidecar")
    if peak / (per_worker * target) > MAX_WORKERS:
        raise BadRequest(f"that needs more than {MAX_WORKERS} workers", "give --peak and --per-worker in the same unit")
    made = make_plan(peak, per_worker, failures, target)
    if output == "json":
        write_json(msgspec.json.encode(made))
    else:
        _show(made)


def _measured(sidecar: SidecarClient, service: str | None) -> float:
    """What the pool does now, in workers of weight 1."""
    answer, _ = sidecar.get("/v1/pool", {"service": service}, PoolAnswer)
    if answer.mean_utilization is None:
        raise BadRequest(
            "the pool does not know how busy its workers are", "give --peak, or set --engine at the sidecars"
        )
    if answer.capacity * answer.mean_utilization <= 0:
        raise BadRequest("the pool does nothing now", "give --peak")
    return answer.capacity * answer.mean_utilization


def _show(made: Plan) -> None:
    share = f"{made.per_worker:g}" if made.target == 1 else f"({made.per_worker:g} x {made.target:g})"
    show_line(f"N = ceil({made.peak:g} / {share}) = {made.needed} workers for the peak")
    show_line(f"F = {made.failures} that may fail")
    show_line(f"N + F = {made.workers} workers", "bold")
    show_table(COLUMNS, made.steps, "")
