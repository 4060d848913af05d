"""The verbs that make a sidecar do something: drain, undrain, leave, reload. Saying one twice is saying it once."""

from __future__ import annotations

import click

from rumormill.cli.exit_codes import EPILOG
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import write_json
from rumormill.cli.tables import show_line
from rumormill.discovery.schema.answers import DrainAnswer, LeaveAnswer, ReloadAnswer


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def drain(sidecar: SidecarClient, output: str) -> None:
    """Take this sidecar's worker out of new work; what it has begun, it ends. Undone by `rumormill undrain`.

    \b
      rumormill drain --http http://10.0.0.5:7380
    """
    _, body = sidecar.command("PUT", "/v1/drain", DrainAnswer)
    _say(body, output, "Draining: callers are told, and send it nothing new.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def undrain(sidecar: SidecarClient, output: str) -> None:
    """Put this sidecar's worker back to work, as soon as its check passes."""
    _, body = sidecar.command("DELETE", "/v1/drain", DrainAnswer)
    _say(body, output, "No longer draining.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def leave(sidecar: SidecarClient, output: str) -> None:
    """Make this sidecar drain its worker, leave the pool for good, and end with code 0."""
    _, body = sidecar.command("POST", "/v1/leave", LeaveAnswer)
    _say(body, output, "Leaving: it drains, says goodbye and ends.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def reload(sidecar: SidecarClient, output: str) -> None:
    """Make this sidecar read its settings again, with the files they name, as a SIGHUP does."""
    _, body = sidecar.command("POST", "/v1/reload", ReloadAnswer)
    _say(body, output, "Reading its settings again: `rumormill status` shows those in force, its log what changed.")


def _say(body: bytes, output: str, text: str) -> None:
    if output == "json":
        write_json(body)
    else:
        show_line(text)
