"""``rumormill canary``: gives releases a share of the keys, by hand or as a guided rollout (rollout.py)."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from rumormill.cli.exit_codes import EPILOG, BadRequest
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import clock, service_option, write_json
from rumormill.cli.rollout_command import run
from rumormill.cli.shares import parse_share, percent
from rumormill.cli.tables import Column, show_line, show_table
from rumormill.discovery.schema.policies import CanaryAnswer, CandidateRow, HistoryAnswer, PolicyChange

CANDIDATE_COLUMNS: tuple[Column[CandidateRow], ...] = (
    Column("RELEASE", lambda c: c.release),
    Column("SHARE", lambda c: percent(c.share), right=True),
    Column(
        "WORKERS", lambda c: str(c.workers) if c.workers else "none: other releases get its share", always_shown=True
    ),
)
CHANGE_COLUMNS: tuple[Column[PolicyChange], ...] = (
    Column("#", lambda c: str(c.index), right=True),
    Column("AT", lambda c: clock(c.at)),
    Column("AT MEMBER", lambda c: c.writer),
    Column("WHAT", lambda c: c.text),
)


@click.group(epilog=EPILOG)
def canary() -> None:
    """Give a release a fixed share of the keys, whatever its workers weigh.

    Such a release is a candidate. The shares are a policy of the pool: set one
    at any sidecar, and it holds at every sidecar and in every client within a
    second. Keys move only to the release whose share grows. The keys without
    a candidate go to the workers of all other releases, by weight.

    \b
      rumormill canary set v2 5%
      rumormill canary show
      rumormill canary run v2 --steps 5,25,50,100 --hold 10m --gate 'p99<300ms' \\
          --prometheus http://prometheus:9090
      rumormill canary abort           # every share back to 0
      rumormill canary clear           # no candidates: all workers by weight
    """


canary.add_command(run)


@canary.command("set", epilog=EPILOG)
@click.argument("release")
@click.argument("share")
@service_option
@sidecar_options
@output_option
def set_share(sidecar: SidecarClient, service: str | None, release: str, share: str, output: str) -> None:
    """Give RELEASE a SHARE of the keys, such as 5%; the other candidates keep theirs.

    A release at 0% stays a candidate, and its workers get no keys at all. This
    ends a guided rollout of the release.
    """
    wanted = {"release": release, "share": parse_share(share), **({"service": service} if service else {})}
    _show_answer(*sidecar.put_policy("/v1/canary", CanaryAnswer, wanted), output)


@canary.command(epilog=EPILOG)
@service_option
@sidecar_options
@output_option
def show(sidecar: SidecarClient, service: str | None, output: str) -> None:
    """Show the candidates, their shares, and the progress of a rollout."""
    _show_answer(*sidecar.get("/v1/canary", {"service": service}, CanaryAnswer), output)


@canary.command(epilog=EPILOG)
@service_option
@sidecar_options
@output_option
def history(sidecar: SidecarClient, service: str | None, output: str) -> None:
    """Show the policy changes this sidecar has seen since its start, newest last."""
    answer, body = sidecar.get("/v1/policy/history", {"service": service}, HistoryAnswer)
    if output == "json":
        write_json(body)
        return
    show_table(CHANGE_COLUMNS, answer.changes, "No policy has changed since this sidecar started.")


@canary.command(epilog=EPILOG)
@click.argument("release", required=False)
@service_option
@sidecar_options
@output_option
def abort(sidecar: SidecarClient, service: str | None, release: str | None, output: str) -> None:
    """Set the share of RELEASE, or of every candidate, to 0, and end its rollout.

    Its workers then get no keys. `rumormill canary clear` gives them keys by weight again.
    """
    answer, body = sidecar.get("/v1/canary", {"service": service}, CanaryAnswer)
    names = [candidate.release for candidate in answer.canary]
    if release and release not in names:
        candidates = f"the candidates are {', '.join(names)}" if names else "there are no candidates"
        raise BadRequest(f"{release!r} is not a candidate", candidates)
    for name in [release] if release else names:
        wanted = {"service": answer.service, "release": name, "share": 0.0}
        answer, body = sidecar.put_policy("/v1/canary", CanaryAnswer, wanted)
    _show_answer(answer, body, output)


@canary.command(epilog=EPILOG)
@click.argument("release", required=False)
@service_option
@sidecar_options
@output_option
def clear(sidecar: SidecarClient, service: str | None, release: str | None, output: str) -> None:
    """End the candidacy of RELEASE, or of every candidate: its workers get keys by weight, like all others.

    Use it after a rollout has reached 100% and the other workers are replaced or gone.
    """
    named = {"service": service or "", "release": release or ""}
    _show_answer(*sidecar.command("DELETE", f"/v1/canary?{urlencode(named)}", CanaryAnswer), output)


def _show_answer(answer: CanaryAnswer, body: bytes, output: str) -> None:
    for warning in answer.warnings:
        click.echo(f"warning: {warning}", err=True)
    if output == "json":
        write_json(body)
        return
    of = answer.service or "no service"
    show_table(CANDIDATE_COLUMNS, answer.canary, f"No release of {of} is a candidate: all keys go by weight.")
    if answer.canary:
        show_line(f"The rest of {of}: {percent(answer.rest)}, by weight.", "dim")
    if answer.rollout:
        rollout = answer.rollout
        step = f"step {rollout.position + 1} of {len(rollout.steps)}"
        why = f": {rollout.why}" if rollout.why else ""
        show_line(
            f"Rollout of {rollout.release}: {rollout.state}, {step} ({percent(rollout.steps[rollout.position])}){why}"
        )
    if answer.index:
        show_line(f"index {answer.index}, written at {answer.writer}, {clock(answer.at)}", "dim")
