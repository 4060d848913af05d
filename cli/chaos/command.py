"""``rumormill chaos``: breaks a pool by a schedule, shows the verdict, and undoes everything."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import trio

from rumormill.cli.chaos.command_faults import CommandFaults
from rumormill.cli.chaos.journal import Journal, default_path, describe
from rumormill.cli.chaos.local_faults import LocalFaults
from rumormill.cli.chaos.objectives import ChaosVerdict
from rumormill.cli.chaos.page import render_chaos_page
from rumormill.cli.chaos.run import ChaosRun, Injector
from rumormill.cli.chaos.schedule import ObjectivesSpec, Schedule, TimeSpan, kill_schedule, lay_out, read_schedule
from rumormill.cli.chaos.traffic import ChaosTraffic, CommandTraffic
from rumormill.cli.demo.caller import Caller
from rumormill.cli.demo.embedding import MODEL
from rumormill.cli.demo.pool_watch import ConditionNotMet, PoolWatch, everyone_routable
from rumormill.cli.demo.ports import NoPortsLeft
from rumormill.cli.demo.processes import BadWorkerCommand, LocalPool, LocalPoolSettings, ProcessEnded
from rumormill.cli.demo.request_log import RequestLog
from rumormill.cli.demo.screen import say
from rumormill.cli.durations import parse_time
from rumormill.cli.exit_codes import GUARD_STOPPED, BadRequest, CliError
from rumormill.cli.http_client import SidecarClient
from rumormill.cli.output_file import write_output
from rumormill.discovery.commands import Status
from rumormill.discovery.schema.workers import WorkersAnswer

MISSED = 1
"""Exit code: an objective was missed, or the run broke off."""
START_LIMIT = 120.0
"""Seconds that the workers and sidecars together may take to start."""
C = TypeVar("C", bound=Callable[..., Any])
EPILOG = """\b
Exit codes: 0 every objective met; 1 one missed, or the run broke off;
2 wrong flags or files; 3 no sidecar answers; 13 the guard stopped it;
130 Ctrl-C, 143 terminated. Everything is undone in each case.
"""
TIMES = ("for", "every", "lasts", "latency")


@click.group(epilog=EPILOG)
def chaos() -> None:
    """Break a pool on purpose, under real traffic, and judge what callers notice.

    \b
      rumormill chaos run --pool 5 --every 5m --for 1h --out chaos.html
      rumormill chaos run --pool 5 --compress 60
      rumormill chaos run schedule.toml --sidecar http://10.0.0.1:7380
      rumormill chaos undo
    """


def _journal_option(command: C) -> C:
    return click.option(
        "--journal",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Journal of what must be undone. Default: rumormill/chaos.journal in ~/.local/state.",
    )(command)


@chaos.command(epilog=EPILOG)
@_journal_option
def undo(journal: Path | None) -> None:
    """Undo what a killed run has left behind: network rules, files that fill a disk, your own undo commands.

    The processes of a pool that `chaos run` had started are gone already. The rules are removed from the network
    namespace that this command runs in. A new `chaos run` does the same first.
    """
    with Journal(journal or default_path()) as held:
        for step in held.undo_leftovers():
            click.echo(describe(step))
        click.echo("Nothing is left to undo.")


@chaos.command(epilog=EPILOG)
@click.argument("schedule", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--pool", "size", type=click.IntRange(1, 100), help="Start a pool of this many workers on this machine.")
@click.option("--sidecar", "sidecars", multiple=True, metavar="URL", help="Sidecar of a pool that runs; repeat it.")
@click.option("--for", "for_", metavar="TIME", help="Length of the run; default: 1h.")
@click.option("--every", metavar="TIME", help="Without a schedule: kill a worker this often; default: 5m.")
@click.option("--lasts", metavar="TIME", help="Without a schedule: start it again after this time; default: 1m.")
@click.option("--compress", type=click.FloatRange(1, 3600), default=1.0, help="Divide every time of the schedule.")
@click.option("--rate", type=click.FloatRange(1, 1000), help="Requests per second; default: 50.")
@click.option("--latency", metavar="TIME", help="Objective: 99 % of the requests take at most this; default: 250ms.")
@click.option("--seed", type=int, help="Chooses the victims; default: 1.")
@click.option("--traffic", metavar="COMMAND", help="Program that sends the requests; {sidecars} is replaced.")
@click.option("--worker-command", metavar="TEMPLATE", help="Model server of the pool; {port}, {host}, {name} replaced.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print only the verdict, as JSON; times in seconds.")
@_journal_option
def run(
    schedule: Path | None,
    size: int | None,
    sidecars: Sequence[str],
    worker_command: str | None,
    out: Path | None,
    as_json: bool,
    journal: Path | None,
    **given: Any,
) -> None:
    """Break a pool by SCHEDULE, a TOML file; without one, kill a worker every 5 minutes for an hour.

    \b
      [[fault]]
      kind = "kill"        # restart, freeze, slow, cut, lose, fill, skew
      every = "5m"         # or: at = ["10m", "40m"]
      lasts = "1m"
      target = "random"    # or a name
      [objectives]
      availability = 0.999
      latency = "250ms"
      [abort]
      errors = 0.01        # of the requests of the last 30 s

    cut and lose need root. To break a pool that runs already, give commands of your own: [commands.KIND] in the
    schedule. The next run, or `rumormill chaos undo`, undoes what a killed run has left behind.
    """
    if (size is None) == (not sidecars):
        raise BadRequest("say which pool: --pool 5 or --sidecar URL, and not both", "`--pool 5` starts one here")
    plan = _schedule(schedule, given)
    lay_out(plan)
    with Journal(journal or default_path()) as held:
        for step in held.undo_leftovers():
            click.echo(f"left by an earlier run: {describe(step)}", err=True)
        command = _ChaosCommand(plan, held, quiet=as_json)
        if size is not None:
            command.run_own_pool(_own_pool(size, plan, worker_command, float(given["compress"])))
        else:
            command.run_pool_of_others(sidecars)
    sys.exit(command.finish(out, as_json=as_json))


def _schedule(path: Path | None, given: dict[str, Any]) -> Schedule:
    """The file, or the usual kills, with the flags on top. Raises :class:`BadRequest`."""
    times = {name: parse_time(f"--{name}", given[key]) for name in TIMES if (given[key := _key(name)]) is not None}
    if path is not None and ("every" in times or "lasts" in times):
        raise BadRequest("--every and --lasts are for a run without a schedule", "write them into the schedule")
    kills = kill_schedule(times.get("every", 300.0), times.get("lasts", 60.0))
    plan = read_schedule(path) if path is not None else Schedule(fault=kills)
    if "for" in times:
        plan = msgspec.structs.replace(plan, duration=TimeSpan(times["for"]))
    if given["seed"] is not None:
        plan = msgspec.structs.replace(plan, seed=given["seed"])
    if "latency" in times:
        stricter: ObjectivesSpec = msgspec.structs.replace(plan.objectives, latency=TimeSpan(times["latency"]))
        plan = msgspec.structs.replace(plan, objectives=stricter)
    changes = {key: given[flag] for key, flag in (("rate", "rate"), ("command", "traffic")) if given[flag] is not None}
    return msgspec.structs.replace(plan, traffic=msgspec.structs.replace(plan.traffic, **changes)).compressed(
        given["compress"]
    )


def _key(name: str) -> str:
    return "for_" if name == "for" else name


def _own_pool(size: int, plan: Schedule, worker_command: str | None, compress: float) -> LocalPoolSettings:
    flags = ["--snapshot", "{directory}/{name}.snapshot"]
    if compress > 1:  # in an hour nobody is hit so often that it counts as flapping; in a minute somebody is
        flags += ["--probation", "0s"]
    return LocalPoolSettings(
        size=size, service=plan.service, cluster="chaos", worker_command=worker_command, agent_flags=tuple(flags)
    )


class _ChaosCommand:
    """One run of the command: its pool, its signals and its result."""

    def __init__(self, plan: Schedule, journal: Journal, *, quiet: bool) -> None:
        self.plan = plan
        self.journal = journal
        self.log = RequestLog()
        self.chaos: ChaosRun | None = None
        self.signal = 0
        self._say: Callable[[str], None] = (lambda _: None) if quiet else say
        self._trouble = ""

    def run_own_pool(self, settings: LocalPoolSettings) -> None:
        """Raises :class:`BadRequest`."""
        try:
            with LocalPool(settings) as pool:
                faults = LocalFaults(pool, self.journal)
                faults.prepare(self.plan.fault)
                watch = PoolWatch({member.name: member.url for member in pool}, settings.service)
                traffic = self._traffic(pool.urls, foreign=settings.worker_command is not None)
                pool.start()
                trio.run(self._until_signal, faults, watch, traffic)
        except BadWorkerCommand as error:
            raise BadRequest(str(error), "for example --worker-command 'my-server --port {port}'") from None
        except NoPortsLeft as error:
            raise BadRequest(str(error), "stop some of the programs that listen on this machine") from None

    def run_pool_of_others(self, urls: Sequence[str]) -> None:
        """Raises :class:`CliError`."""
        asked = [SidecarClient(url, None, None, None, None) for url in urls]
        names = {client.get("/v1/status", {}, Status)[0].name: client.url for client in asked}
        answer, _ = asked[0].get("/v1/workers", {"service": self.plan.service}, WorkersAnswer)
        faults = CommandFaults({w.name: w.url for w in answer.workers}, self.plan.commands, self.journal)
        faults.prepare(self.plan.fault)
        traffic = self._traffic(list(names.values()), foreign=True)
        trio.run(self._until_signal, faults, PoolWatch(names, self.plan.service), traffic)

    def _traffic(self, urls: Sequence[str], *, foreign: bool) -> ChaosTraffic:
        spec = self.plan.traffic
        if spec.command is not None:
            return CommandTraffic(spec.command, urls, self.log.add)
        return Caller(
            urls,
            service=self.plan.service,
            record=self.log.add,
            rate=spec.rate,
            foreign=foreign,
            model=spec.model or MODEL,
            rng=random.Random(self.plan.seed),
        )

    async def _until_signal(self, faults: Injector, watch: PoolWatch, traffic: ChaosTraffic) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._hear_signals, nursery.cancel_scope)
            await nursery.start(watch.run)
            try:
                await self._play(faults, watch, traffic)
            except* (CliError, ConditionNotMet, ProcessEnded) as group:
                self._trouble = "; ".join(str(error) for error in _leaves(group))
            nursery.cancel_scope.cancel()

    async def _play(self, faults: Injector, watch: PoolWatch, traffic: ChaosTraffic) -> None:
        at_start = everyone_routable(faults.members)
        await watch.until(watch.observers, at_start, f"{len(faults.members)} workers at every sidecar", START_LIMIT)
        self.chaos = ChaosRun(self.plan, faults, watch, self.log, traffic, self._say)
        await self.chaos.play()

    async def _hear_signals(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            self.signal = await anext(signals)
            self._trouble = f"{signal.Signals(self.signal).name}"
            scope.cancel()

    def finish(self, out: Path | None, *, as_json: bool) -> int:
        """Show the verdict, write the page, and say the exit code."""
        verdict = self.chaos.verdict() if self.chaos is not None else ChaosVerdict()
        verdict.stopped = verdict.stopped or self._trouble
        say(json.dumps(verdict.as_json(), indent=2) if as_json else "\n" + "\n".join(_lines(verdict)))
        if out is not None:
            begun = self.chaos.begun if self.chaos is not None else 0.0
            write_output(out, render_chaos_page(verdict, self.log.outcomes, begun).encode())
        if self.signal:
            return 128 + self.signal
        if self.chaos is not None and self.chaos.guarded:
            return GUARD_STOPPED
        return 0 if verdict.ok else MISSED


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    return [leaf for e in group.exceptions for leaf in (_leaves(e) if isinstance(e, BaseExceptionGroup) else [e])]


def _lines(verdict: ChaosVerdict) -> list[str]:
    lines = [
        f"{'met   ' if o.met else 'MISSED'}  {o.claim}: {o.found} ({o.bound}; {o.evidence})" for o in verdict.objectives
    ]
    lines += [f"        {times} x {text}" for text, times in verdict.whole.troubles]
    return [*lines, verdict.sentence]
