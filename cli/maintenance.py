"""``rumormill maintenance`` and ``rumormill zone``: show and change these policies of the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from rumormill.cli.exit_codes import EPILOG
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import service_option, write_json
from rumormill.cli.tables import show_line
from rumormill.discovery.schema.policies import MaintenanceAnswer, ZoneAnswer


@click.group(epilog=EPILOG)
def maintenance() -> None:
    """Stop new work for workers by the pool's policy: at any sidecar, for a worker anywhere.

    Unlike `rumormill drain`, this survives a restart of the worker's sidecar. A
    worker in maintenance is shown as draining until it is removed again.

    \b
      rumormill maintenance add w3
      rumormill maintenance show
      rumormill maintenance remove w3
    """


@maintenance.command(epilog=EPILOG)
@service_option
@sidecar_options
@output_option
def show(sidecar: SidecarClient, service: str | None, output: str) -> None:
    """Show which workers are in maintenance."""
    _show_answer(*sidecar.get("/v1/maintenance", {"service": service}, MaintenanceAnswer), output)


@maintenance.command(epilog=EPILOG)
@click.argument("workers", nargs=-1, required=True)
@service_option
@sidecar_options
@output_option
def add(sidecar: SidecarClient, service: str | None, workers: tuple[str, ...], output: str) -> None:
    """Put these workers in maintenance too."""
    _change(sidecar, service, output, lambda named: [*named, *(name for name in workers if name not in named)])


@maintenance.command(epilog=EPILOG)
@click.argument("workers", nargs=-1, required=True)
@service_option
@sidecar_options
@output_option
def remove(sidecar: SidecarClient, service: str | None, workers: tuple[str, ...], output: str) -> None:
    """Take these workers out of maintenance."""
    _change(sidecar, service, output, lambda named: [name for name in named if name not in workers])


def _change(
    sidecar: SidecarClient, service: str | None, output: str, change: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    held, _ = sidecar.get("/v1/maintenance", {"service": service}, MaintenanceAnswer)
    wanted = {"service": held.service, "workers": list(change(held.workers))}
    _show_answer(*sidecar.put_policy("/v1/maintenance", MaintenanceAnswer, wanted), output)


def _show_answer(answer: MaintenanceAnswer, body: bytes, output: str) -> None:
    if output == "json":
        write_json(body)
        return
    named = ", ".join(answer.workers) or "none"
    show_line(f"Workers of {answer.service or 'no service'} in maintenance: {named}")
    for warning in answer.warnings:
        click.echo(f"warning: {warning}", err=True)


@click.group(epilog=EPILOG)
def zone() -> None:
    """Set the zone preferred by callers that have none of their own.

    \b
      rumormill zone prefer a
      rumormill zone prefer ""      # none
      rumormill zone show
    """


@zone.command("show", epilog=EPILOG)
@service_option
@sidecar_options
@output_option
def show_zone(sidecar: SidecarClient, service: str | None, output: str) -> None:
    """Show the preferred zone."""
    _show_zone(*sidecar.get("/v1/zone", {"service": service}, ZoneAnswer), output)


@zone.command(epilog=EPILOG)
@click.argument("zone")
@service_option
@sidecar_options
@output_option
def prefer(sidecar: SidecarClient, service: str | None, zone: str, output: str) -> None:
    """Prefer ZONE. An empty text ends the preference."""
    wanted = {"zone": zone, **({"service": service} if service else {})}
    _show_zone(*sidecar.put_policy("/v1/zone", ZoneAnswer, wanted), output)


def _show_zone(answer: ZoneAnswer, body: bytes, output: str) -> None:
    if output == "json":
        write_json(body)
        return
    show_line(f"Preferred zone of {answer.service or 'no service'}: {answer.zone or 'none'}")
    for warning in answer.warnings:
        click.echo(f"warning: {warning}", err=True)
