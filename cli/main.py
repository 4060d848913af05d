"""``rumormill``: the group of verbs. Each verb's module is imported when it is asked for, so an agent carries no tables
and no HTTP client, and a table starts no agent.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple

import click

from rumormill.cli.exit_codes import EPILOG


class Verb(NamedTuple):
    """Where a verb is, and what it is for, so that listing them imports none."""

    place: str
    about: str


VERBS = {
    "agent": Verb("agent:agent", "Run the sidecar of one worker."),
    "members": Verb("queries:members", "Show every member, the dead and the left included."),
    "workers": Verb("queries:workers", "Show the workers callers may be sent to."),
    "lookup": Verb("queries:lookup", "Show who owns a key, in order of preference."),
    "events": Verb("queries:events", "Show what happened in the pool, and why."),
    "status": Verb("queries:status", "Show one sidecar from inside."),
    "watch": Verb("watch:watch", "Show each change of the workers as it happens."),
    "drain": Verb("commands:drain", "Take a worker out of new work; what it has begun, it ends."),
    "undrain": Verb("commands:undrain", "Put a drained worker back to work."),
    "leave": Verb("commands:leave", "Make a sidecar drain, leave the pool and end."),
    "reload": Verb("commands:reload", "Make a sidecar read its settings again."),
    "canary": Verb("canary:canary", "Give a release a share of the keys: set, show, run, abort, history."),
    "maintenance": Verb("maintenance:maintenance", "Keep workers out of new work, by the pool's policy."),
    "zone": Verb("maintenance:zone", "Choose the zone preferred by callers that name none."),
    "keys": Verb("keys:keys", "Make the keys that seal gossip, and change them while the pool runs."),
    "simulate": Verb("simulate:simulate", "Put a pool through trouble in virtual time: scenarios, sweeps, reports."),
    "demo": Verb("demo.command:demo", "See a pool live through a kill, a freeze, a restart and a drain."),
}


class LazyGroup(click.Group):
    """A group that imports a verb's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].place.partition(":")
        command = getattr(import_module(f"rumormill.cli.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  for the type checker
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.about) for name, verb in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown verb is answered with the nearest known one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no verb {args[0]!r}; {_nearest(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _nearest(given: str) -> str:
    import difflib

    close = difflib.get_close_matches(given, VERBS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(VERBS)}"


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"rumormill {version('rumormill')}")
        ctx.exit()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def rumormill() -> None:
    """A leaderless pool of AI-inference workers.

    Beside every worker runs a sidecar (`rumormill agent`). The sidecars gossip about who is alive, and each answers
    over HTTP who can serve a key. The other verbs ask a sidecar, or tell it something.

    \b
    A pool of one, on this machine, beside a worker on port 9001:
      rumormill keys generate --out rumormill.key
      rumormill agent --name w1 --cluster lab --service embed \\
          --worker http://127.0.0.1:9001 --key-file rumormill.key
      rumormill members
    """


def main() -> None:
    """The console script."""
    _take_missing_descriptors()
    rumormill(prog_name="rumormill")


def _take_missing_descriptors() -> None:
    """Where stdin, stdout or stderr was closed (``2>&-``), the next file or socket would get its number, and with it
    whatever a library prints there. ``sys.stderr`` stays None, so what is closed is still known to be."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
