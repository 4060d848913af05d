"""The verbs that change one sidecar: drain, undrain, leave, reload. Repeating a verb does no harm."""

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
    """Stop new work for this sidecar's worker. It finishes what it has begun. `rumormill undrain` ends this.

    \b
      rumormill drain --http http://10.0.0.5:7380
    """
    _, body = sidecar.command("PUT", "/v1/drain", DrainAnswer)
    _show_answer(body, output, "Draining: callers are told to send the worker nothing new.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def undrain(sidecar: SidecarClient, output: str) -> None:
    """Allow new work for this sidecar's worker again, as soon as its check passes."""
    _, body = sidecar.command("DELETE", "/v1/drain", DrainAnswer)
    _show_answer(body, output, "No longer draining.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def leave(sidecar: SidecarClient, output: str) -> None:
    """Make this sidecar drain its worker, leave the pool, and exit with code 0."""
    _, body = sidecar.command("POST", "/v1/leave", LeaveAnswer)
    _show_answer(body, output, "Leaving: the sidecar drains its worker, leaves the pool and exits.")


@click.command(epilog=EPILOG)
@sidecar_options
@output_option
def reload(sidecar: SidecarClient, output: str) -> None:
    """Make this sidecar read its settings and their files again, as SIGHUP does."""
    _, body = sidecar.command("POST", "/v1/reload", ReloadAnswer)
    _show_answer(
        body,
        output,
        "The sidecar reads its settings again. Its log says what changed; `rumormill status` shows the result.",
    )


def _show_answer(body: bytes, output: str, text: str) -> None:
    if output == "json":
        write_json(body)
    else:
        show_line(text)
