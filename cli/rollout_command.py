"""``rumormill canary run``: the flags of a guided rollout, and how it is told and ended."""

from __future__ import annotations

import sys
import time

import click

from rumormill.cli.exit_codes import EPILOG, GATE_FAILED, INTERRUPTED, OUT_OF_HAND, BadRequest
from rumormill.cli.gates import MetricSource, OwnFigures, Prometheus, RolloutGate, parse_gate
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import service_option, write_json
from rumormill.cli.rollout import RolloutController, TakenOver
from rumormill.cli.shares import parse_share
from rumormill.cli.tables import show_line
from rumormill.discovery.schema.policies import CanaryAnswer, RolloutRow
from rumormill.sidecar.settings_values import BadValue, Seconds


@click.command("run", epilog=EPILOG)
@click.argument("release")
@click.option("--steps", metavar="PERCENT,…", help="Shares in order, such as 5,25,50,100.")
@click.option("--hold", metavar="TIME", help="How long each step must pass its gates: 30s, 10m.")
@click.option("--gate", "gates", multiple=True, metavar="GATE", help="What must hold; repeat it. See below.")
@click.option("--prometheus", metavar="URL", help="Prometheus server to read figures from.")
@click.option("--figures", metavar="PLACE", help="The client's own figures: a file, or a URL.")
@click.option("--every", metavar="TIME", help="How often gates are looked at; default a twentieth of --hold.")
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
    """Raise the share of RELEASE step by step while its gates hold; to 0, and exit code 7, when one fails.

    \b
      rumormill canary run v2 --steps 5,25,50,100 --hold 10m \\
          --gate 'p99<300ms' --gate 'errors<.1%' --prometheus http://prometheus:9090
      rumormill canary run v2 --steps 10,100 --hold 5m --figures /run/app/figures.json \\
          --gate 'p95<80ms' --gate 'requests>100' --gate 'exec: ./compare-answers.sh'
      rumormill canary run v2          # go on with the one that was begun

    \b
    Gates:
      p50, p90, p95, p99 < 300ms       of the release's answers, over the last minute
      errors < .1%                     failed requests among them
      requests > 100                   so that nothing passes for want of traffic
      promql: QUERY < 5                one value; {service}, {release}, {window} are filled in
      exec: COMMAND                    ends with code 0; RUMORMILL_RELEASE is set for it

    How far it is stands in the pool's policy. Ctrl-C, or the death of this
    command, leaves the share as it is: run it again to go on, from anywhere,
    or `rumormill canary abort`.
    """
    answer, _ = sidecar.get("/v1/canary", {"service": service}, CanaryAnswer)
    begun = answer.rollout if answer.rollout and answer.rollout.state == "running" else None
    wanted = _wanted(release, steps, hold, gates, prometheus, figures) if steps else None
    rollout = _chosen(release, begun, wanted, given=bool(steps or hold or gates or prometheus or figures))
    guide = RolloutController(
        sidecar,
        answer.service,
        [parse_gate(gate) for gate in rollout.gates],
        _source(rollout),
        every=_seconds("--every", every) if every else None,
        say=_say if output == "table" else lambda _: None,
    )
    ended = _guided(guide, release, rollout, answer, begun=begun is not None)
    if output == "json":
        write_json(sidecar.get("/v1/canary", {"service": answer.service}, CanaryAnswer)[1])
    if ended.state == "failed":
        _say_err(f"rumormill: the rollout of {release} has failed, and its share is back at 0: {ended.why}")
        sys.exit(GATE_FAILED)
    _say_err(f"Done: {release} has {ended.steps[-1] * 100:g} % of the keys.")


def _guided(
    guide: RolloutController, release: str, rollout: RolloutRow, answer: CanaryAnswer, *, begun: bool
) -> RolloutRow:
    """Begin it, or go on with one that was begun, to its end. Leaves the process where it is stopped, or taken over."""
    try:
        if begun:
            _say_err(f"Going on with the rollout of {release} that was begun before.")
        else:
            answer = guide.begin(rollout, answer.index)
            for warning in answer.warnings:
                click.echo(f"warning: {warning}", err=True)
        return guide.guide(answer)
    except KeyboardInterrupt:
        _say_err(
            f"Stopped looking; the share of {release} stays as it is. Go on with `rumormill canary run {release}`, or "
            f"end it with `rumormill canary abort {release}`."
        )
        sys.exit(INTERRUPTED)
    except TakenOver as taken:
        _say_err(f"rumormill: this command guides {release} no longer: {taken}")
        sys.exit(OUT_OF_HAND)


def _chosen(release: str, begun: RolloutRow | None, wanted: RolloutRow | None, *, given: bool) -> RolloutRow:
    """Begin the one that is wanted, or go on with the one that was begun."""
    if begun is not None and begun.release != release:
        raise BadRequest(
            f"a rollout of {begun.release!r} is under way", f"end it first: rumormill canary abort {begun.release}"
        )
    if begun is not None:
        same = wanted is not None and (wanted.steps, wanted.hold, wanted.gates) == (
            begun.steps,
            begun.hold,
            begun.gates,
        )
        if given and not same:
            raise BadRequest(
                f"a rollout of {release!r} with other steps, hold or gates is under way",
                f"go on with it: rumormill canary run {release}; or end it: rumormill canary abort {release}",
            )
        return begun
    if wanted is None:
        raise BadRequest(
            f"no rollout of {release!r} is under way", f"begin one: rumormill canary run {release} --steps 5,25,50,100"
        )
    return wanted


def _wanted(
    release: str, steps: str, hold: str | None, gates: tuple[str, ...], prometheus: str | None, figures: str | None
) -> RolloutRow:
    shares = [parse_share(step) for step in steps.split(",")]
    if sorted(shares) != shares or len(set(shares)) < len(shares) or len(shares) > 32:
        raise BadRequest(f"--steps {steps} does not go up", "write shares in order, at most 32: 5,25,50,100")
    parsed = [parse_gate(gate) for gate in gates]
    if prometheus and figures:
        raise BadRequest("--prometheus and --figures are both given", "choose where figures are read from")
    _check_sources(parsed, prometheus, figures)
    if hold is None:
        raise BadRequest("--hold is missing", "say how long each step must pass its gates: --hold 10m")
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
            raise BadRequest(f"the gate {gate.text!r} needs a Prometheus", "add --prometheus http://HOST:9090")
        if gate.metric != "exec" and not (prometheus or figures):
            raise BadRequest(
                f"nothing says where {gate.text!r} is read from", "add --prometheus URL or --figures PLACE"
            )


def _source(rollout: RolloutRow) -> MetricSource | None:
    if rollout.prometheus:
        return Prometheus(rollout.prometheus)
    return OwnFigures(rollout.figures) if rollout.figures else None


def _seconds(flag: str, text: str) -> float:
    try:
        return float(Seconds.parse(text))
    except BadValue as error:
        raise BadRequest(f"{flag}: {error}", error.hint) from None


def _say(text: str) -> None:
    show_line(f"{time.strftime('%H:%M:%S')}  {text}")


def _say_err(text: str) -> None:
    click.echo(text, err=True)
