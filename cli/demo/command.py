"""``rumormill demo``: runs the scenario, shows its result, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import random
import signal
import sys
import time
from dataclasses import dataclass

import click
import trio
from rich.console import Console

from rumormill.cli.demo import llama_server
from rumormill.cli.demo.caller import Caller
from rumormill.cli.demo.embedding import MODEL
from rumormill.cli.demo.llm_scenario import USERS, LlmScenario, llm_pool_settings
from rumormill.cli.demo.pool_watch import ConditionNotMet, PoolWatch
from rumormill.cli.demo.ports import NoPortsLeft
from rumormill.cli.demo.processes import BadWorkerCommand, LocalPool, LocalPoolSettings, ProcessEnded
from rumormill.cli.demo.request_log import RequestLog
from rumormill.cli.demo.scenario import DemoOutput, DemoScenario
from rumormill.cli.demo.screen import LiveScreen, NoOutput, PlainLog, ScreenState, say
from rumormill.cli.demo.stream_caller import StreamCaller
from rumormill.cli.demo.verdict import DemoVerdict, plain_lines
from rumormill.cli.exit_codes import BadRequest

BROKEN = 1
"""Exit code: a promise was broken, or the demo did not run to its end."""
START_TIMEOUT = 20.0
"""Seconds that our own workers and sidecars together may take to start."""
EPILOG = """\b
Exit codes: 0 every promise kept, or strained (a time beyond its target, but
within three times of it); 1 a promise broken, or the demo cannot run;
2 wrong flags; 130 interrupted, 143 terminated.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """The settings from the command line."""

    worker_command: str | None
    worker_check: str
    worker_wait: float
    model: str
    rate: float
    pace: float
    llm: bool = False

    @property
    def answered_by(self) -> str:
        """Who answers the requests, and what is checked; shown on the screen."""
        if self.llm:
            return "token streams of SmolLM2-135M in llama.cpp, each compared with the undisturbed answer"
        if self.worker_command is None:
            return "embeddings of real text (hashed n-grams), each checked by the caller"
        return f"{self.worker_command.split()[0]}, a model server of yours; checked for their shape only"


@click.command(epilog=EPILOG)
@click.option(
    "--worker-command",
    metavar="TEMPLATE",
    help="Run this model server three times instead of the demo's own; {port}, {host} and {name} are replaced. Only "
    "the shape of its answers to POST /v1/embeddings is then checked.",
)
@click.option(
    "--worker-check", default="/health", show_default=True, metavar="PATH", help="Path of the server's health check."
)
@click.option(
    "--worker-wait",
    type=click.FloatRange(1, 3600),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="Time that this server may take to start.",
)
@click.option("--model", default=MODEL, show_default=True, metavar="NAME", help="Model name in the requests.")
@click.option("--rate", type=click.FloatRange(1, 1000), default=100.0, show_default=True, help="Requests per second.")
@click.option(
    "--pace",
    type=click.FloatRange(0.1, 10),
    default=1.0,
    show_default=True,
    help="Factor for the length of the phases; 1 is half a minute in all.",
)
@click.option(
    "--llm", is_flag=True, help="Three llama.cpp servers with a small real model, token streams, and a saturation."
)
@click.option("--plain", is_flag=True, help="Print lines instead of a live screen (the default without a terminal).")
@click.option("--json", "as_json", is_flag=True, help="Print only the verdict, as JSON; times in seconds.")
def demo(
    worker_command: str | None,
    worker_check: str,
    worker_wait: float,
    model: str,
    rate: float,
    pace: float,
    llm: bool,
    plain: bool,
    as_json: bool,
) -> None:
    """Watch a pool survive a kill, a restart, a freeze and a drain.

    The demo runs three worker processes, a sidecar for each, and a caller that sends keyed requests through the client
    library. Everything stays on 127.0.0.1, takes about half a minute, and leaves nothing behind.

    With --llm the workers are llama.cpp servers with a language model of 98 MB, and the answers are streams of tokens.
    If a worker dies in the middle of an answer, the answer breaks off and the caller asks again. `make demo-llm`
    installs what the demo needs.
    """
    if llm and worker_command is not None:
        raise BadRequest("--llm and --worker-command exclude each other", "remove one of them")
    if llm and not llama_server.installed():
        raise BadRequest("the language model is not installed", "run `make demo-llm` in a checkout")
    settings = DemoSettings(
        worker_command=worker_command,
        worker_check=worker_check,
        worker_wait=worker_wait,
        model=model,
        rate=rate,
        pace=pace,
        llm=llm,
    )
    pool_settings = LocalPoolSettings(cluster="demo", worker_command=worker_command, worker_check=worker_check)
    pool_settings = llm_pool_settings() if llm else pool_settings
    demo_run = _DemoRun(settings, plain=plain, as_json=as_json)
    try:
        with LocalPool(pool_settings) as pool:
            trio.run(demo_run.run, pool)
    except BadWorkerCommand as error:
        raise BadRequest(str(error), "for example --worker-command 'my-server --port {port}'") from None
    except NoPortsLeft as error:
        raise BadRequest(str(error), "stop some of the programs that listen on this machine") from None
    demo_run.show_verdict()
    sys.exit(demo_run.exit_code)


class _DemoRun:
    """One run of the demo: its output, its verdict and its exit code."""

    def __init__(self, settings: DemoSettings, *, plain: bool, as_json: bool) -> None:
        self.settings = settings
        self.as_json = as_json
        # A character that the terminal's encoding lacks is shown as a question mark, and does not raise an error.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self.console = Console()
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal and not plain and not as_json
        self.verdict = DemoVerdict()
        self.exit_code = BROKEN
        self._screen: LiveScreen | None = None

    async def run(self, pool: LocalPool) -> None:
        """Run the scenario to its end, or until a signal."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._hear_signals, scope)
                await self._play(pool)
                nursery.cancel_scope.cancel()

    async def _hear_signals(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            number = await anext(signals)
            self.verdict.interrupted = f"{signal.Signals(number).name} ended it."
            self.exit_code = 128 + number
            scope.cancel()

    async def _play(self, pool: LocalPool) -> None:
        request_log = RequestLog()
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        output = self._choose_output(request_log, watch)
        scenario, caller = self._cast(pool, watch, request_log, output)
        scenario.verdict = self.verdict
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            if isinstance(output, LiveScreen):
                output.state.member_states, output.state.phase_count = scenario.member_states, len(scenario.plans)
                nursery.start_soon(output.run)
            try:
                await scenario.open()
                await nursery.start(caller.run)
                await scenario.play(caller.finish)
            except (ConditionNotMet, ProcessEnded) as error:
                self.verdict.interrupted = str(error)
            nursery.cancel_scope.cancel()
        if self.verdict.ok:
            self.exit_code = 0

    def _cast(
        self, pool: LocalPool, watch: PoolWatch, request_log: RequestLog, output: DemoOutput
    ) -> tuple[DemoScenario, Caller | StreamCaller]:
        """The scenario, and who calls the workers in it."""
        settings, service = self.settings, pool.settings.service
        own = settings.worker_command is None and not settings.llm
        start_timeout = START_TIMEOUT if own else settings.worker_wait
        if settings.llm:
            streams = StreamCaller(pool.urls, service=service, request_log=request_log, users=USERS)
            llm = LlmScenario(pool, watch, request_log, output, pace=settings.pace, start_timeout=start_timeout)
            llm.caller = streams
            if isinstance(output, LiveScreen):
                output.state.streams = lambda: list(streams.streams.values())
            return llm, streams
        scenario = DemoScenario(pool, watch, request_log, output, pace=settings.pace, start_timeout=start_timeout)
        return scenario, Caller(
            pool.urls,
            service=service,
            record=request_log.add,
            rate=settings.rate,
            foreign=not own,
            model=settings.model,
            rng=random.Random(),
        )

    def _choose_output(self, request_log: RequestLog, watch: PoolWatch) -> LiveScreen | PlainLog | NoOutput:
        if self.as_json:
            return NoOutput()
        if not self.live:
            say(f"Answers: {self.settings.answered_by}.")
            return PlainLog()
        state = ScreenState(
            request_log, watch.answers, member_states={}, answered_by=self.settings.answered_by, begun=time.monotonic()
        )
        state.slice_seconds *= max(1.0, self.settings.pace)
        self._screen = LiveScreen(state, self.console)
        return self._screen

    def show_verdict(self) -> None:
        """Show the result."""
        if self.as_json:
            say(json.dumps(self.verdict.as_json(), indent=2))
        elif self._screen is not None:
            self._screen.verdict(self.verdict)
        else:
            say("\n" + "\n".join(plain_lines(self.verdict)))
