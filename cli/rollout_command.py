"""``rumormill canary run``: the flags of a guided rollout, and what it prints."""

from __future__ import annotations

import sys
import time

import click

from rumormill.cli.exit_codes import EPILOG, GATE_FAILED, INTERRUPTED, TAKEN_OVER, BadRequest
from rumormill.cli.gates import ClientFiguresSource, MetricSource, Prometheus, RolloutGate, parse_gate
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import service_option, write_json
from rumormill.cli.rollout import RolloutController, TakenOver
from rumormill.cli.shares import parse_share
from rumormill.cli.tables import show_line
from rumormill.discovery.schema.policies import CanaryAnswer, RolloutRow
from rumormill.sidecar.settings_values import BadValue, Seconds


@click.command("run", epilog=EPILOG)
@click.argument("release")
@click.option("--steps", metavar="PERCENT,…", help="Shares in rising order, such as 5,25,50,100.")
@click.option("--hold", metavar="TIME", help="Time for which each step must pass its gates: 30s, 10m.")
@click.option("--gate", "gates", multiple=True, metavar="GATE", help="A condition, see below; can be repeated.")
@click.option("--prometheus", metavar="URL", help="Prometheus server to read values from.")
@click.option("--figures", metavar="PLACE", help="Figures that a client writes: a file or a URL.")
@click.option("--every", metavar="TIME", help="Time between checks of the gates; default: a twentieth of --hold.")
@service_option
@sidecar_options
@output_option
def run(
    sidecar: SidecarClient,
    service: str | None,
    release: str,
    steps: str | None,
    hold: str | None,
    gates: tuple[str, ...],
    prometheus: str | None,
    figures: str | None,
    every: str | None,
    output: str,
) -> None:
    """Raise the share of RELEASE step by step while its gates hold.

    If a gate fails, the share goes back to 0 and the exit code is 7.

    \b
      rumormill canary run v2 --steps 5,25,50,100 --hold 10m \\
          --gate 'p99<300ms' --gate 'errors<0.1%' --prometheus http://prometheus:9090
      rumormill canary run v2 --steps 10,100 --hold 5m --figures /run/app/figures.json \\
          --gate 'p95<80ms' --gate 'requests>100' --gate 'exec: ./compare-answers.sh'
      rumormill canary run v2          # continue a rollout that was interrupted

    \b
    Gates:
      p50, p90, p95, p99 < 300ms       response time of the release, over the last minute
      errors < 0.1%                    part of its requests that failed
      requests > 100                   number of its requests: no pass without traffic
      promql: QUERY < 5                one value; {service}, {release}, {window} are filled in
      exec: COMMAND                    exits with code 0; RUMORMILL_RELEASE is set for it

    The progress is kept in the pool's policy. If this command is interrupted or
    dies, the share stays as it is. Run it again on any machine to continue, or
    run `rumormill canary abort`.
    """
    answer, _ = sidecar.get("/v1/canary", {"service": service}, CanaryAnswer)
    running = answer.rollout if answer.rollout and answer.rollout.state == "running" else None
    wanted = _parse_rollout(release, steps, hold, gates, prometheus, figures) if steps else None
    rollout = _select_rollout(release, running, wanted, given=bool(steps or hold or gates or prometheus or figures))
    parsed = [parse_gate(gate) for gate in rollout.gates]
    controller = RolloutController(
        *(sidecar, answer.service, parsed, _source(rollout)),
        every=_seconds("--every", every) if every else None,
        report=_print_progress if output == "table" else lambda _: None,
    )
    ended = _run_rollout(controller, release, rollout, answer, running=running is not None)
    if output == "json":
        write_json(sidecar.get("/v1/canary", {"service": answer.service}, CanaryAnswer)[1])
    _report_end(release, ended)


def _report_end(release: str, ended: RolloutRow) -> None:
    """Say how a rollout ended. Exits the process if a gate failed."""
    if ended.state == "failed":
        _print_error(f"rumormill: the rollout of {release} has failed, and its share is back at 0: {ended.why}")
        sys.exit(GATE_FAILED)
    _print_error(f"Done: {release} has {ended.steps[-1] * 100:g} % of the keys.")


def _run_rollout(
    controller: RolloutController, release: str, rollout: RolloutRow, answer: CanaryAnswer, *, running: bool
) -> RolloutRow:
    """Start the rollout, or continue a running one, until its end. Exits the process if it is interrupted or taken
    over."""
    try:
        if running:
            _print_error(f"Continuing the rollout of {release} that was started before.")
        else:
            answer = controller.start(rollout, answer.index)
            for warning in answer.warnings:
                click.echo(f"warning: {warning}", err=True)
        return controller.run(answer)
    except KeyboardInterrupt:
        _print_error(
            f"Interrupted; the share of {release} stays as it is. Continue with `rumormill canary run {release}`, or "
            f"end the rollout with `rumormill canary abort {release}`."
        )
        sys.exit(INTERRUPTED)
    except TakenOver as taken:
        _print_error(f"rumormill: this command no longer controls the rollout of {release}: {taken}")
        sys.exit(TAKEN_OVER)


def _select_rollout(release: str, running: RolloutRow | None, wanted: RolloutRow | None, *, given: bool) -> RolloutRow:
    """The rollout to start, or the running one to continue. Raises :class:`BadRequest` if they differ."""
    if running is not None and running.release != release:
        raise BadRequest(
            f"a rollout of {running.release!r} is running", f"end it first: rumormill canary abort {running.release}"
        )
    if running is not None:
        same = wanted is not None and (wanted.steps, wanted.hold, wanted.gates) == (
            running.steps,
            running.hold,
            running.gates,
        )
        if given and not same:
            raise BadRequest(
                f"a rollout of {release!r} with other steps, hold time or gates is running",
                f"continue it: rumormill canary run {release}; or end it: rumormill canary abort {release}",
            )
        return running
    if wanted is None:
        raise BadRequest(
            f"no rollout of {release!r} is running", f"start one: rumormill canary run {release} --steps 5,25,50,100"
        )
    return wanted


def _parse_rollout(
    release: str, steps: str, hold: str | None, gates: tuple[str, ...], prometheus: str | None, figures: str | None
) -> RolloutRow:
    shares = [parse_share(step) for step in steps.split(",")]
    if sorted(shares) != shares or len(set(shares)) < len(shares) or len(shares) > 32:
        raise BadRequest(
            f"--steps {steps} is not in rising order, or too long", "write at most 32 rising shares: 5,25,50,100"
        )
    parsed = [parse_gate(gate) for gate in gates]
    if prometheus and figures:
        raise BadRequest("--prometheus and --figures exclude each other", "remove one of them")
    _check_sources(parsed, prometheus, figures)
    if hold is None:
        raise BadRequest("--hold is missing", "give the time for which each step must pass its gates: --hold 10m")
    return RolloutRow(
        release=release,
        steps=shares,
        hold=_seconds("--hold", hold),
        gates=list(gates),
        prometheus=prometheus or "",
        figures=figures or "",
    )


def _check_sources(gates: list[RolloutGate], prometheus: str | None, figures: str | None) -> None:
    for gate in gates:
        if gate.metric == "promql" and not prometheus:
            raise BadRequest(f"the gate {gate.text!r} needs a Prometheus server", "add --prometheus http://HOST:9090")
        if gate.metric != "exec" and not (prometheus or figures):
            raise BadRequest(
                f"the gate {gate.text!r} needs a source of values", "add --prometheus URL or --figures PLACE"
            )


def _source(rollout: RolloutRow) -> MetricSource | None:
    if rollout.prometheus:
        return Prometheus(rollout.prometheus)
    return ClientFiguresSource(rollout.figures) if rollout.figures else None


def _seconds(flag: str, text: str) -> float:
    try:
        return float(Seconds.parse(text))
    except BadValue as error:
        raise BadRequest(f"{flag}: {error}", error.hint) from None


def _print_progress(text: str) -> None:
    show_line(f"{time.strftime('%H:%M:%S')}  {text}")


def _print_error(text: str) -> None:
    click.echo(text, err=True)
