"""The reference page of the command line, from the commands themselves. generate.py writes it."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import click
from page_text import code, fenced, page, table

from rumormill.cli.main import VERBS
from rumormill.cli.main import rumormill as command_line
from rumormill.sidecar.settings import fields

OF_AN_AGENT = ("rumormill agent", "rumormill run", "rumormill config show")
"""Verbs that take all settings as flags."""
SHARED = {"http", "http_token_file", "http_ca", "http_cert", "http_key"}
"""Options of every verb that asks a sidecar."""


def verbs_page() -> str:
    context = click.Context(command_line, info_name="rumormill")
    verbs = [(f"[`{name}`](#rumormill-{name})", verb.summary) for name, verb in VERBS.items()]
    asking = command_line.get_command(context, "status")
    assert asking is not None
    sections = [table(("verb", "what it does"), verbs)]
    for name in VERBS:
        command = command_line.get_command(context, name)
        assert command is not None
        sections += _verb(command, f"rumormill {name}", context, level=2)
    shared = [option for option in asking.params if isinstance(option, click.Option) and option.name in SHARED]
    sections.append("## Options of every verb that asks a sidecar")
    sections.append(table(("option", "meaning"), [_option(option, context) for option in shared]))
    return page(
        "Verbs",
        "`rumormill VERB --help` shows the same text. `rumormill --version` says which version runs. "
        "[Exit codes](exit-codes.md) have a page of their own.",
        *sections,
    )


def _verb(command: click.Command, title: str, parent: click.Context, *, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=title.rpartition(" ")[2], parent=parent)
    yield f"{'#' * level} {title}"
    yield fenced(" ".join([title, *command.collect_usage_pieces(context)]))
    yield from _help_text(command.help or "")
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if title in OF_AN_AGENT:
        settings = {field.name for field in fields()} | {"config"}
        yield "Its flags are the [settings](settings.md), and `--config FILE`."
        options = [option for option in options if option.name not in settings]
    asks_a_sidecar = {option.name for option in options} >= SHARED
    own = [option for option in options if not (asks_a_sidecar and option.name in SHARED)]
    if own:
        yield table(("option", "meaning"), [_option(option, context) for option in own])
    if asks_a_sidecar:
        yield "And the [options of every verb that asks a sidecar](#options-of-every-verb-that-asks-a-sidecar)."
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _verb(inner, f"{title} {name}", context, level=level + 1)


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    flags = ", ".join(option.opts)
    metavar = "" if option.is_flag else f" {option.metavar or option.make_metavar(context)}"
    notes = []
    if isinstance(option.envvar, str):
        notes.append(f"Variable: `{option.envvar}`.")
    if option.required:
        notes.append("Required.")
    elif isinstance(option.default, int | float | str) and not isinstance(option.default, bool):
        notes.append(f"Default: `{option.default}`.")
    return code(flags + metavar), " ".join([option.help or "", *notes])


def _help_text(text: str) -> Iterator[str]:
    """Paragraphs as they are, and what click is told to leave alone (``\\b``) as a block."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith("\b"):
            yield from _example(part.removeprefix("\b").strip("\n"))
        else:
            yield " ".join(part.split())


def _example(part: str) -> Iterator[str]:
    """Sentences above indented commands: the sentences as text, the commands as a block."""
    lines = part.splitlines()
    indented = [line for line in lines if line.startswith("  ")]
    if not indented:
        yield "<br>\n".join(line.strip() for line in lines)
        return
    first = lines.index(indented[0])
    last = len(lines) - lines[::-1].index(indented[-1])
    if lines[:first]:
        yield " ".join(lines[:first])
    yield fenced(textwrap.dedent("\n".join(lines[first:last])))
    if lines[last:]:
        yield " ".join(lines[last:])
