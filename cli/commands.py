"""The verbs that change one sidecar: drain, undrain, weight, leave, reload. Repeating a verb does no harm."""

from __future__ import annotations

import click

from rumormill.cli.drain_wait import wait_drained
from rumormill.cli.durations import parse_time
from rumormill.cli.exit_codes import EPILOG
from rumormill.cli.http_client import SidecarClient, output_option, sidecar_options
from rumormill.cli.member_argument import member_argument
from rumormill.cli.queries import write_json
from rumormill.cli.tables import show_line
from rumormill.discovery.schema.answers import DrainAnswer, LeaveAnswer, ReloadAnswer, WeightAnswer


@click.command(epilog=EPILOG)
@click.option("--wait", is_flag=True, help="Return when the worker has finished what it had.")
@click.option("--restart", is_flag=True, help="The worker is about to be restarted: drain it until it is ready again.")
@click.option(
    "--deadline", metavar="TIME", default="5m", show_default=True, help="With --wait: how long to wait at most."
)
@sidecar_options
@member_argument
@output_option
def drain(sidecar: SidecarClient, wait: bool, restart: bool, deadline: str, output: str) -> None:
    """Stop new work for the worker of this sidecar, or of MEMBER's. It finishes what it has begun. `rumormill undrain`
    ends this.

    With --wait this returns within a second after the worker's last request. The worker's engine counts them, or else
    the callers report them; where nobody counts, the worker has its --drain-time. After the deadline the exit code
    is 9, and the worker goes on draining.

    With --restart the drain ends by itself, once the worker was down and passes its check again. A restart that was
    announced in this way is not a flap, however often it happens. If the worker does not go down within a minute, the
    drain ends too.

    \b
      rumormill drain w3
      rumormill drain --restart --wait && systemctl restart vllm
      rumormill drain --http http://10.0.0.5:7380
      rumormill drain --wait --deadline 10m && systemctl stop vllm
    """
    seconds = parse_time("--deadline", deadline)
    _, body = sidecar.command("PUT", "/v1/drain?restart=true" if restart else "/v1/drain", DrainAnswer)
    if wait:
        wait_drained(sidecar, seconds, output)
    else:
        _show_answer(body, output, "Draining: callers are told to send the worker nothing new.")


@click.command(epilog=EPILOG)
@sidecar_options
@member_argument
@output_option
def undrain(sidecar: SidecarClient, output: str) -> None:
    """Allow new work for the worker of this sidecar, or of MEMBER's, again, as soon as its check passes."""
    _, body = sidecar.command("DELETE", "/v1/drain", DrainAnswer)
    _show_answer(body, output, "No longer draining.")


@click.command(epilog=EPILOG)
@click.argument("weight", type=click.FloatRange(0, 1000))
@sidecar_options
@member_argument
@output_option
def weight(sidecar: SidecarClient, weight: float, output: str) -> None:
    """Give the worker of this sidecar, or of MEMBER's, another weight: 0.5 gets half the keys of a normal worker.

    It holds until the sidecar restarts or reads its settings again. Put it into the file of settings to keep it.

    \b
      rumormill weight 0.5
      rumormill weight 0 w3
    """
    _, body = sidecar.command("PUT", f"/v1/weight?weight={weight}", WeightAnswer)
    _show_answer(body, output, f"The weight is {weight:g}, until the sidecar reads its settings again.")


@click.command(epilog=EPILOG)
@sidecar_options
@member_argument
@output_option
def leave(sidecar: SidecarClient, output: str) -> None:
    """Make this sidecar, or MEMBER's, drain its worker, leave the pool, and exit with code 0."""
    _, body = sidecar.command("POST", "/v1/leave", LeaveAnswer)
    _show_answer(body, output, "Leaving: the sidecar drains its worker, leaves the pool and exits.")


@click.command(epilog=EPILOG)
@sidecar_options
@member_argument
@output_option
def reload(sidecar: SidecarClient, output: str) -> None:
    """Make this sidecar, or MEMBER's, read its settings and their files again, as SIGHUP does."""
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
