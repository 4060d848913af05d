"""``rumormill record``: the flight recorder of a sidecar."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from rumormill.cli.exit_codes import EPILOG, BadRequest
from rumormill.cli.http_client import SidecarClient, sidecar_options
from rumormill.discovery.commands import Status


@click.group(epilog=EPILOG)
def record() -> None:
    """The flight recorder: every sidecar keeps the last minutes of what it heard and concluded.

    `rumormill replay` plays a record again. A record holds no keys. It does hold what members say of one another:
    names, addresses, URLs and policies.
    """


@record.command(epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), help="The file to write. Default: NAME-TIME.rumor here.")
@sidecar_options
def dump(client: SidecarClient, out: Path | None) -> None:
    """Save the record of a sidecar to a file.

    \b
    rumormill record dump --http http://10.0.0.1:7380
    rumormill replay w1-20261130T145002Z.rumor
    """
    data = client.download("/v1/record")
    name = client.get("/v1/status", {}, Status)[0].name.replace("/", "_")
    path = out or Path(f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.rumor")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}", "give another file with --out") from None
    click.echo(f"{path}: {len(data) / 1e6:.1f} MB. Play it with: rumormill replay {path}")
