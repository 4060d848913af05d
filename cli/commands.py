"""The verbs that change one sidecar: drain, undrain, leave, reload. Repeating a verb does no harm."""

from __future__ import annotations

import click

from rumormill.cli.drain_wait import wait_drained
from rumormill.cli.durations import parse_time
from rumormill.cli.exit_codes import EPILOG
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.queries import write_json
from rumormill.cli.tables import show_line
from rumormill.discovery.schema.answers import DrainAnswer, LeaveAnswer, ReloadAnswer


@click.command(epilog=EPILOG)
@click.option("--wait", is_flag=True, help="Return when the worker has finished what it had.")
@click.option(
    "--deadline", metavar="TIME", default="5m", show_default=True, help="With --wait: how long to wait at most."
)
@sidecar_options
@output_option
def drain(sidecar: SidecarClient, wait: bool, deadline: str, output: str) -> None:
    """Stop new work for this sidecar's worker. It finishes what it has begun. `rumormill undrain` ends this.

    With --wait this returns within a second after the worker's last request. The worker's engine counts them, or else
    the callers report them; where nobody counts, the worker has its --drain-time. After the deadline the exit code
    is 9, and the worker goes on draining.

    \b
      rumormill drain --http http://10.0.0.5:7380
      rumormill drain --wait --deadline 10m && systemctl stop vllm
    """
    seconds = parse_time("--deadline", deadline)
    _, body = sidecar.command("PUT", "/v1/drain", DrainAnswer)
    if wait:
        wait_drained(sidecar, seconds, output)
    else:
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
