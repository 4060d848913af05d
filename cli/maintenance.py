"""``rumormill maintenance`` and ``rumormill zone``: the pool's policy about workers and zones."""

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
    """Keep workers out of new work by the pool's policy: at any sidecar, for a worker anywhere.

    Unlike `rumormill drain`, it outlives a restart of the worker's sidecar. Each
    worker that is named says *draining* of itself until it is named no more.

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
    """Show which workers are kept out of new work."""
    _say(*sidecar.get("/v1/maintenance", {"service": service}, MaintenanceAnswer), output)


@maintenance.command(epilog=EPILOG)
@click.argument("workers", nargs=-1, required=True)
@service_option
@sidecar_options
@output_option
def add(sidecar: SidecarClient, service: str | None, workers: tuple[str, ...], output: str) -> None:
    """Keep these workers out of new work as well."""
    _change(sidecar, service, output, lambda named: [*named, *(name for name in workers if name not in named)])


@maintenance.command(epilog=EPILOG)
@click.argument("workers", nargs=-1, required=True)
@service_option
@sidecar_options
@output_option
def remove(sidecar: SidecarClient, service: str | None, workers: tuple[str, ...], output: str) -> None:
    """Let these workers take new work again."""
    _change(sidecar, service, output, lambda named: [name for name in named if name not in workers])


def _change(
    sidecar: SidecarClient, service: str | None, output: str, change: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    held, _ = sidecar.get("/v1/maintenance", {"service": service}, MaintenanceAnswer)
    wanted = {"service": held.service, "workers": list(change(held.workers))}
    _say(*sidecar.steer("/v1/maintenance", MaintenanceAnswer, wanted), output)


def _say(answer: MaintenanceAnswer, body: bytes, output: str) -> None:
    if output == "json":
        write_json(body)
        return
    named = ", ".join(answer.workers) or "nobody"
    show_line(f"In maintenance of {answer.service or 'no service'}: {named}")
    for warning in answer.warnings:
        click.echo(f"warning: {warning}", err=True)


@click.group(epilog=EPILOG)
def zone() -> None:
    """Choose the zone preferred by callers that name none of their own.

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
    _say_zone(*sidecar.get("/v1/zone", {"service": service}, ZoneAnswer), output)


@zone.command(epilog=EPILOG)
@click.argument("zone")
@service_option
@sidecar_options
@output_option
def prefer(sidecar: SidecarClient, service: str | None, zone: str, output: str) -> None:
    """Prefer ZONE; empty for none."""
    wanted = {"zone": zone, **({"service": service} if service else {})}
    _say_zone(*sidecar.steer("/v1/zone", ZoneAnswer, wanted), output)


def _say_zone(answer: ZoneAnswer, body: bytes, output: str) -> None:
    if output == "json":
        write_json(body)
        return
    show_line(f"Preferred zone of {answer.service or 'no service'}: {answer.zone or 'none'}")
    for warning in answer.warnings:
        click.echo(f"warning: {warning}", err=True)
