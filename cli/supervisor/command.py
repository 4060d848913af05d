"""``rumormill run``: checks the settings, then hands over to the supervisor."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from rumormill.cli.agent import typed_flags, with_agent_flags
from rumormill.cli.exit_codes import EPILOG, CliError
from rumormill.cli.supervisor import pid_file
from rumormill.cli.supervisor.child import become_subreaper
from rumormill.cli.supervisor.launch import NOT_FOUND
from rumormill.cli.supervisor.orphan_reaper import OrphanReaper
from rumormill.cli.supervisor.restart import RestartMode
from rumormill.cli.supervisor.supervisor import HANDLED, RunPlan, WorkerSupervisor
from rumormill.sidecar import AgentError, load
from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.log import open_log
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import BadValue, Seconds

AGENT = ("-c", "from rumormill.cli.main import main; main()", "agent")


def _seconds(_ctx: click.Context, _parameter: click.Parameter, text: str) -> float:
    try:
        return Seconds.parse(text)
    except BadValue as error:
        raise click.BadParameter(f"{error}; {error.hint}") from None


@click.command(epilog=EPILOG, context_settings={"allow_interspersed_args": False})
@click.option(
    "--restart",
    type=click.Choice(get_args(RestartMode)),
    default="never",
    show_default=True,
    help="When to start the worker again after it has ended. After 1 s at first, then twice as long each time, up to a "
    "minute; after a minute of life the delay starts over. Each delay is shortened at random by up to a half.",
)
@click.option(
    "--keep-sidecar", is_flag=True, help="Keep the sidecar in the pool after the worker has ended and is not restarted."
)
@click.option(
    "--stop-time",
    default="30s",
    show_default=True,
    metavar="TIME",
    callback=_seconds,
    help="Time that the worker gets to end after its SIGTERM, before it is killed.",
)
@with_agent_flags
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    restart: RestartMode,
    keep_sidecar: bool,
    stop_time: float,
    config: Path | None,
    command: tuple[str, ...],
    **_flags: Any,
) -> None:
    """Start a worker and its sidecar, and supervise both.

    Give the flags of `rumormill agent`, then -- and the command that starts the worker.

    \b
    A vLLM server, started again when it crashes:
      rumormill run --name w1 --cluster prod --service chat --worker http://127.0.0.1:8000 \\
          --key-file pool.key --join pool.example:7946 --drain-time 30s \\
          --restart on-failure -- vllm serve Qwen/Qwen3-8B --port 8000

    \b
    The worker keeps its stdin, stdout and stderr. If stdin is a terminal, it reads nothing.
    The sidecar logs to stderr. It watches the worker's process: the pool knows of a crash within milliseconds.
    If the sidecar crashes, it is started again, and the worker goes on.
    As process 1 of a container, this command reaps zombies. Nothing stays behind after kill -9 of it.

    \b
    Signals:
      SIGTERM, SIGINT    the sidecar drains (--drain-time) and leaves the pool; then the worker gets the same
                         signal, and --stop-time to end. A second one kills both at once.
      SIGHUP             the sidecar reads its settings again
      SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH   are passed to the worker

    The exit code is that of the worker; 128 + n if signal n ended it; 127 if its command is not found. If the sidecar
    cannot run (2, 5, 6), the worker is stopped, and the exit code is the sidecar's.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # none is lost while the settings are read
    typed = typed_flags(ctx)
    try:
        settings = load(typed, os.environ, config)
        _check(settings)
    except AgentError as error:
        CliError(error.message, error.hint).show()
        ctx.exit(error.exit_code)
    if shutil.which(command[0]) is None:
        CliError(f"the command {command[0]!r} was not found", "give its full path, or install it").show()
        ctx.exit(NOT_FOUND)
    plan = RunPlan((sys.executable, *AGENT, *_arguments(typed, config)), command, restart, keep_sidecar, stop_time)
    ctx.exit(_supervise(plan, settings))


def _check(settings: Settings) -> None:
    if settings.worker_pid is not None or settings.worker_pid_file is not None:
        raise SettingsError(
            "`rumormill run` starts the worker, so it knows its process",
            "remove worker-pid and worker-pid-file from the flags, the variables and the file",
        )


def _arguments(typed: Mapping[str, Any], config: Path | None) -> list[str]:
    """The flags for the sidecar's own process."""
    arguments = [f"--worker-pid-file={pid_file.PATH}"]
    if config is not None:
        arguments.append(f"--config={config}")
    for name, value in typed.items():
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{name}" if value is True else f"--{name}={value}" for value in values]
    return arguments


def _supervise(plan: RunPlan, settings: Settings) -> int:
    become_subreaper()
    reaper = OrphanReaper()  # it forks: before the log starts its thread
    log = open_log(sys.stderr, settings).log
    return WorkerSupervisor(plan, reaper, log, random.Random(secrets.randbits(64))).run()
