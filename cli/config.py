"""``rumormill config``: write a settings file, check one, and show which settings an agent would use, and why."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from rumormill.cli.agent import typed_flags, with_agent_flags
from rumormill.cli.exit_codes import EPILOG, BadRequest, CliError
from rumormill.cli.tables import Column, show_line, show_table
from rumormill.sidecar import AgentError, load
from rumormill.sidecar.settings import Settings, description_of, fields
from rumormill.sidecar.settings_sources import load_with_origins

EXAMPLES = {"name": "w1", "cluster": "prod", "service": "embed", "worker": "http://127.0.0.1:9001"}
"""For settings that every agent needs."""
WIDTH = 100
Row = tuple[str, str, str]
COLUMNS: tuple[Column[Row], ...] = (
    Column("SETTING", lambda row: row[0]),
    Column("VALUE", lambda row: row[1]),
    Column("ORIGIN", lambda row: row[2]),
)


@click.group(epilog=EPILOG)
def config() -> None:
    """Write, check and explain the settings of an agent.

    \b
    A new file, its check, and where each setting comes from:
      rumormill config init --out agent.toml
      rumormill config check agent.toml
      rumormill config show --config agent.toml --origin
    """


@config.command(epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write to this new file.")
def init(out: Path | None) -> None:
    """Print a commented TOML file of every setting.

    Settings that an agent needs have an example; the others are commented out, with their defaults.
    """
    if out is None:
        click.echo(template(), nl=False)
        return
    try:
        with out.open("x") as file:
            file.write(template())
    except FileExistsError:
        raise BadRequest(f"{out} exists already", "give another name, or remove it first") from None
    except OSError as error:
        raise BadRequest(f"cannot write {out}: {error.strerror}", "give a place that this user can write to") from None


@config.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def check(ctx: click.Context, file: Path) -> None:
    """Say what is wrong with a settings file, as the agent would.

    Variables (RUMORMILL_*) count too. The files that the settings name are read; nothing is started and no address is
    bound.
    """
    settings = _loaded(ctx, {}, file)
    show_line(f"{file} is valid: {settings.name} in {settings.cluster}, for the service {settings.service}")


@config.command(epilog=EPILOG)
@click.option("--origin", is_flag=True, help="Show the flag, variable or file that each setting comes from.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="table for people, json for programs.",
)
@with_agent_flags
@click.pass_context
def show(ctx: click.Context, /, origin: bool, output: str, config: Path | None, **_flags: Any) -> None:
    """Show the settings that an agent with the same flags, variables and file would use.

    Without --origin, settings at their default are left out.
    """
    try:
        settings, origins = load_with_origins(typed_flags(ctx), os.environ, config)
    except AgentError as error:
        _fail(ctx, error)
    values: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    rows = [(key, _shown(value), origins.get(key, "default")) for key, value in values.items()]
    rows = [row for row in rows if origin or row[2] != "default"]
    if output == "json":
        click.echo(msgspec.json.encode([{"setting": k, "value": values[k], "origin": o} for k, _, o in rows]))
        return
    show_table(COLUMNS if origin else COLUMNS[:2], rows, "nothing is set")


def _loaded(ctx: click.Context, flags: dict[str, Any], file: Path) -> Settings:
    from rumormill.sidecar.key_file import read_key_file
    from rumormill.sidecar.reload import read_runtime_config
    from rumormill.sidecar.secrets import read_policy_key

    try:
        settings = load(flags, os.environ, file)
        read_runtime_config(settings)
        if settings.key_file is not None:
            read_key_file(settings.key_file)
        if settings.policy_key is not None:
            read_policy_key(settings.policy_key)
    except AgentError as error:
        _fail(ctx, error)
    return settings


def _fail(ctx: click.Context, error: AgentError) -> NoReturn:
    CliError(error.message, error.hint).show()
    ctx.exit(error.exit_code)


def _shown(value: Any) -> str:
    """A value for people. Empty for a setting that is not set."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case dict():
            return ", ".join(f"{key}={text}" for key, text in value.items())
        case list() | tuple():
            return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def template() -> str:
    """The file of ``rumormill config init``, made from the declarations of the settings."""
    from rumormill.sidecar.reload import CHANGEABLE

    head = [
        "# The settings of a rumormill agent: `rumormill agent --config THIS_FILE`.",
        "# A flag wins over a variable (RUMORMILL_KEY_FILE), and a variable over this file.",
        "# Settings marked with * change at `rumormill reload`; the others need a restart.",
    ]
    return "\n".join([*head, *("\n" + _entry(field, field.name in CHANGEABLE) for field in fields())]) + "\n"


def _entry(field: msgspec.structs.FieldInfo, changeable: bool) -> str:
    about, metavar = description_of(field)
    mark = " *" if changeable else ""
    lines = textwrap.wrap(f"{about}{mark}", WIDTH, initial_indent="# ", subsequent_indent="# ")
    key = field.encode_name
    if key in EXAMPLES:
        return "\n".join([*lines, f"{key} = {_toml(EXAMPLES[key])}"])
    return "\n".join([*lines, f"# {key} = {_toml(_example(field, metavar))}"])


def _example(field: msgspec.structs.FieldInfo, metavar: str) -> Any:
    """The default; if there is none, what a value looks like."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    if field.default is None:
        return metavar
    return field.default


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float() if type(value) in (int, float):
            return f"{value:g}"
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(text)}" for key, text in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(str(value)).decode()  # a basic string of TOML is written like one of JSON
