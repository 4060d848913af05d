"""``rumormill agent``: runs a sidecar. Its flags are derived from the settings, so there is only one list of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from rumormill.cli.exit_codes import EPILOG, CliError
from rumormill.sidecar import AgentError, load
from rumormill.sidecar.settings import description_of, fields

Decorated = Callable[..., None]
REPEATED = ("join", "tag", "disable_format")


def _flag(field: msgspec.structs.FieldInfo) -> Callable[[Decorated], Decorated]:
    about, metavar = description_of(field)
    if bool in get_args(field.type):
        return click.option(f"--{field.encode_name}", field.name, is_flag=True, help=about)
    return click.option(
        f"--{field.encode_name}",
        field.name,
        metavar=metavar,
        multiple=field.name in REPEATED,
        help=about + _default_text(field),
    )


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "  [required]"
    if field.default in (None, "", (), msgspec.NODEFAULT):
        return ""
    number = field.default
    return f"  [default: {number:g}]" if type(number) is float else f"  [default: {number}]"


def with_agent_flags(command: Decorated) -> Decorated:
    """Add the flags of all settings, and ``--config``."""
    file = click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with any of these settings."
    )
    command = file(command)
    for field in reversed(fields()):
        command = _flag(field)(command)
    return command


def typed_flags(ctx: click.Context) -> dict[str, Any]:
    """The flags of settings that were given on the command line, by kebab-case name."""
    return {
        field.encode_name: ctx.params[field.name]
        for field in fields()
        if ctx.get_parameter_source(field.name) is click.core.ParameterSource.COMMANDLINE
    }


@click.command(epilog=EPILOG)
@with_agent_flags
@click.pass_context
def agent(ctx: click.Context, /, config: Path | None, **_flags: Any) -> None:
    """Run the sidecar of one worker.

    The sidecar gossips with the other sidecars over UDP, checks its worker, and serves the discovery endpoint over
    HTTP. It logs to stderr, one line per event. The log is JSON, unless stderr is a terminal.

    \b
    The first member of a pool, and a second one on the same machine:
      rumormill keys generate --out rumormill.key
      rumormill agent --name w1 --cluster lab --service embed \\
          --worker http://127.0.0.1:9001 --key-file rumormill.key
      rumormill agent --name w2 --cluster lab --service embed \\
          --worker http://127.0.0.1:9002 --key-file rumormill.key \\
          --gossip 127.0.0.1:7947 --http 127.0.0.1:7381 --join 127.0.0.1:7946

    \b
    On a network, listen on every address and advertise the one others use:
      rumormill agent ... --gossip 0.0.0.0:7946 --advertise 10.0.0.5:7946 \\
          --advertise-worker http://10.0.0.5:9001 --join pool.example:7946

    Every flag can also be set as a variable (RUMORMILL_KEY_FILE; several values separated by commas) or as a key of the
    TOML file (key-file). A flag wins over a variable, and a variable over the file. Times need a unit: 200ms, 1s.

    On SIGTERM, SIGINT or `rumormill leave` the agent drains its worker for --drain-time, leaves the pool and exits with
    code 0. A second signal ends it at once. On SIGHUP or `rumormill reload` it reads the settings again; the log says
    what has changed and what needs a restart.
    """
    from rumormill.sidecar.agent import run  # others of this module's importers only read settings

    try:
        run(partial(load, typed_flags(ctx), dict(os.environ), config))
    except AgentError as error:
        CliError(error.message, error.hint).show()
        ctx.exit(error.exit_code)
