"""``rumormill lookup --explain``: shows step by step why a key goes to its worker."""

from __future__ import annotations

import sys

import click

from rumormill.cli.exit_codes import NONE_FOUND
from rumormill.cli.http_client import SidecarClient
from rumormill.cli.tables import Column, show_line, show_pairs, show_table
from rumormill.ring.explain import Candidate, Explanation

CANDIDATE_COLUMNS: tuple[Column[Candidate], ...] = (
    Column("NAME", lambda c: c.name),
    Column("WHY", lambda c: c.why),
    Column("OBJECTION", lambda c: c.objection),
    Column("LIVENESS", lambda c: c.liveness),
    Column("RELEASE", lambda c: c.release),
    Column("ZONE", lambda c: c.zone),
    Column("WEIGHT", lambda c: f"{c.weight:g}", right=True),
    Column("LOAD", lambda c: "" if c.utilization is None else f"{c.utilization:.2f}", right=True),
    Column("POINT", lambda c: str(c.point), right=True),
)


def show_explanation(
    sidecar: SidecarClient, key: str, service: str | None, zone: str | None, count: int, output: str
) -> None:
    """Print why a key goes to its worker. Exits with code 1 if the key has no owner."""
    answer, body = sidecar.get("/v1/explain", {"service": service, "key": key, "zone": zone}, Explanation)
    if output == "json":
        click.echo(body.decode())
    else:
        show_pairs(_explanation_pairs(answer))
        show_line("")
        show_table(CANDIDATE_COLUMNS, answer.candidates[:count], nobody_owns(key, service))
        if len(answer.candidates) > count:
            show_line(f"and {len(answer.candidates) - count} more (-n shows them)", "dim")
        show_line(f"routing digest {answer.routing_digest}", "dim")
    if not answer.candidates:
        sys.exit(NONE_FOUND)


def _explanation_pairs(answer: Explanation) -> list[tuple[str, str]]:
    return [
        ("key", f"{answer.key!r} of {answer.service or 'no service'}"),
        ("gate", answer.gate),
        ("ring", f"position {answer.position} of {2**32}"),
        ("zone", answer.zoned),
        ("goes to", answer.chosen or "nobody"),
    ]


def nobody_owns(key: str, service: str | None) -> str:
    """Says that a key has no owner, and why."""
    return f"Nobody owns {key!r}: no worker {f'of {service!r} ' if service else ''}takes new work."
