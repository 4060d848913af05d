"""``rumormill``: the group of verbs. The module of a verb is imported only when it is used, so that an agent loads no
tables and no HTTP client, and a table loads no agent.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import NamedTuple

import click

from rumormill.cli.exit_codes import EPILOG


class Verb(NamedTuple):
    """Where a verb is defined, and its summary, so that listing the verbs imports none of them."""

    target: str
    summary: str


VERBS = {
    "agent": Verb("agent:agent", "Run the sidecar of one worker."),
    "run": Verb("supervisor.command:run", "Start a worker and its sidecar, and supervise both."),
    "config": Verb("config:config", "Write, check and explain a file of settings."),
    "members": Verb("queries:members", "Show every member, including dead members and those that left."),
    "workers": Verb("queries:workers", "Show the workers of the pool."),
    "lookup": Verb("queries:lookup", "Show which workers own a key, in order of preference."),
    "events": Verb("queries:events", "Show what happened in the pool, and why."),
    "status": Verb("queries:status", "Show the state and the settings of one sidecar."),
    "watch": Verb("watch:watch", "Show each change of the workers as it happens."),
    "top": Verb("top.command:top", "Show the pool in this terminal, live."),
    "drain": Verb("commands:drain", "Stop new work for a worker; it finishes what it has begun."),
    "plan": Verb("plan:plan", "Show how many workers a peak needs so that some may fail."),
    "undrain": Verb("commands:undrain", "Allow new work for a drained worker again."),
    "weight": Verb("commands:weight", "Give a worker more or fewer of the keys."),
    "leave": Verb("commands:leave", "Make a sidecar drain, leave the pool and exit."),
    "reload": Verb("commands:reload", "Make a sidecar read its settings again."),
    "canary": Verb("canary:canary", "Give a release a share of the keys: set, show, run, abort, history."),
    "maintenance": Verb("maintenance:maintenance", "Stop new work for workers, by the pool's policy."),
    "zone": Verb("maintenance:zone", "Set the zone preferred by callers that have none of their own."),
    "keys": Verb("keys:keys", "Make the keys that seal gossip, and change them while the pool runs."),
    "probe": Verb("probe:probe", "Ask a worker what its sidecar would ask, and show what follows."),
    "doctor": Verb("doctor.command:doctor", "Say what is wrong with a sidecar, and what to do about it."),
    "debug": Verb("debug:debug", "Save what somebody else needs to find a fault."),
    "record": Verb("record:record", "Save what a sidecar's flight recorder holds of the last minutes."),
    "replay": Verb("replay.command:replay", "Play a record again, and show what the member concluded and why."),
    "decode": Verb("decode:decode", "Show the gossip in a capture of the network."),
    "simulate": Verb("simulate:simulate", "Test a pool with failures in virtual time: scenarios, sweeps, reports."),
    "chaos": Verb(
        "chaos.command:chaos", "Break a pool of real processes by a schedule, and judge what callers notice."
    ),
    "demo": Verb("demo.command:demo", "Watch a pool survive a kill, a restart, a freeze and a drain."),
}


class LazyGroup(click.Group):
    """A group that imports a verb's module only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].target.partition(":")
        command = getattr(import_module(f"rumormill.cli.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101  for the type checker
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but the error for an unknown verb names the nearest known one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no verb {args[0]!r}; {_nearest(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _nearest(given: str) -> str:
    import difflib

    close = difflib.get_close_matches(given, VERBS, n=1)
    return f"did you mean {close[0]!r}?" if close else f"the verbs are {', '.join(VERBS)}"


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"rumormill {version('rumormill')}")
        ctx.exit()


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def rumormill() -> None:
    """A leaderless pool of AI-inference workers.

    Every worker has a sidecar (`rumormill agent`). The sidecars gossip about which members are alive. Each of them
    answers over HTTP which worker can serve a key. The other verbs query a sidecar or change something.

    \b
    A pool of one, on this machine, with a worker on port 9001:
      rumormill keys generate --out rumormill.key
      rumormill agent --name w1 --cluster lab --service embed \\
          --worker http://127.0.0.1:9001 --key-file rumormill.key
      rumormill members
    """


def main() -> None:
    """The console script."""
    _reserve_standard_descriptors()
    rumormill(prog_name="rumormill")


def _reserve_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr (``2>&-``).

    Otherwise the next file or socket would get that descriptor, and with it whatever a library prints there.
    ``sys.stderr`` stays None, so the log still knows that stderr is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
