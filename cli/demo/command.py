"""``rumormill demo``: play the story before whoever is there, say what came of it, leave nothing behind."""

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

from rumormill.cli.demo.caller import Caller
from rumormill.cli.demo.embedding import MODEL
from rumormill.cli.demo.pool_watch import NotSeen, PoolWatch
from rumormill.cli.demo.ports import NoPortsLeft
from rumormill.cli.demo.processes import BadWorkerCommand, LocalPool, LocalPoolSettings, ProcessEnded
from rumormill.cli.demo.request_log import RequestLog
from rumormill.cli.demo.screen import LiveScreen, PlainLog, Scene, Silence, say
from rumormill.cli.demo.story import DemoStory
from rumormill.cli.demo.verdict import DemoVerdict, plain_lines
from rumormill.cli.exit_codes import BadRequest

BROKEN = 1
"""Exit code: a promise was broken, or the demo was not seen to its end."""
OWN_PATIENCE = 20.0
"""Seconds our own workers and sidecars get to come up, together."""
EPILOG = """\b
Exit codes: 0 every promise kept (or at worst strained: a time beyond its
target, within three times of it); 1 a promise broken, or the demo cannot run;
2 wrong flags; 130 interrupted, 143 terminated.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What the command line asks for."""

    worker_command: str | None
    worker_check: str
    worker_wait: float
    model: str
    rate: float
    pace: float

    @property
    def answered_by(self) -> str:
        """What the screen says about who answers, and what is checked of it."""
        if self.worker_command is None:
            return "embeddings of real text (hashed n-grams), each checked by the caller"
        return f"{self.worker_command.split()[0]}, a model server of yours; checked for their shape only"


@click.command(epilog=EPILOG)
@click.option(
    "--worker-command",
    metavar="TEMPLATE",
    help="Run this model server three times instead of the demo's own; {port}, {host} and {name} are replaced. Its "
    "answers to POST /v1/embeddings are then checked for their shape only.",
)
@click.option(
    "--worker-check", default="/health", show_default=True, metavar="PATH", help="Where the server says it can serve."
)
@click.option(
    "--worker-wait",
    type=click.FloatRange(1, 3600),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="How long such a server may take to start.",
)
@click.option("--model", default=MODEL, show_default=True, metavar="NAME", help="The model to ask for.")
@click.option("--rate", type=click.FloatRange(1, 1000), default=100.0, show_default=True, help="Requests a second.")
@click.option(
    "--pace",
    type=click.FloatRange(0.1, 10),
    default=1.0,
    show_default=True,
    help="Stretches the acts; 1 is half a minute.",
)
@click.option(
    "--plain", is_flag=True, help="Lines instead of a live screen (so it is anyway where there is no terminal)."
)
@click.option("--json", "as_json", is_flag=True, help="Nothing but the verdict, as JSON; times in seconds.")
def demo(
    worker_command: str | None,
    worker_check: str,
    worker_wait: float,
    model: str,
    rate: float,
    pace: float,
    plain: bool,
    as_json: bool,
) -> None:
    """See a pool live through a kill, a restart, a freeze and a drain.

    Three real worker processes, a sidecar beside each, and a caller that sends them keyed requests through the client
    library. Everything stays on 127.0.0.1, takes about half a minute, and leaves nothing behind.
    """
    settings = DemoSettings(
        worker_command=worker_command,
        worker_check=worker_check,
        worker_wait=worker_wait,
        model=model,
        rate=rate,
        pace=pace,
    )
    pool_settings = LocalPoolSettings(cluster="demo", worker_command=worker_command, worker_check=worker_check)
    performance = _Performance(settings, plain=plain, as_json=as_json)
    try:
        with LocalPool(pool_settings) as pool:
            trio.run(performance.run, pool)
    except BadWorkerCommand as error:
        raise BadRequest(str(error), "for example --worker-command 'my-server --port {port}'") from None
    except NoPortsLeft as error:
        raise BadRequest(str(error), "close some of what listens on this machine") from None
    performance.conclude()
    sys.exit(performance.exit_code)


class _Performance:
    """One run: who watches, what was seen, and how it ended."""

    def __init__(self, settings: DemoSettings, *, plain: bool, as_json: bool) -> None:
        self.settings = settings
        self.as_json = as_json
        # Signs that a terminal of another encoding lacks are shown as question marks, and end nothing.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self.console = Console()
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal and not plain and not as_json
        self.verdict = DemoVerdict()
        self.exit_code = BROKEN
        self._screen: LiveScreen | None = None

    async def run(self, pool: LocalPool) -> None:
        """Play the story to its end, or to the signal that ends it."""
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
        settings = self.settings
        ledger = RequestLog()
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        audience = self._audience(ledger, watch)
        patience = OWN_PATIENCE if settings.worker_command is None else settings.worker_wait
        story = DemoStory(pool, watch, ledger, audience, pace=settings.pace, patience=patience)
        story.verdict = self.verdict
        caller = Caller(
            pool.urls,
            service=pool.settings.service,
            record=ledger.add,
            rate=settings.rate,
            foreign=settings.worker_command is not None,
            model=settings.model,
            rng=random.Random(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            if isinstance(audience, LiveScreen):
                audience.scene.doing = story.doing
                nursery.start_soon(audience.run)
            try:
                await story.open()
                await nursery.start(caller.run)
                await story.play(caller.finish)
            except (NotSeen, ProcessEnded) as error:
                self.verdict.interrupted = str(error)
            nursery.cancel_scope.cancel()
        if self.verdict.ok:
            self.exit_code = 0

    def _audience(self, ledger: RequestLog, watch: PoolWatch) -> LiveScreen | PlainLog | Silence:
        if self.as_json:
            return Silence()
        if not self.live:
            say(f"Answers: {self.settings.answered_by}.")
            return PlainLog()
        scene = Scene(ledger, watch.answers, doing={}, answered_by=self.settings.answered_by, begun=time.monotonic())
        scene.slice_seconds *= max(1.0, self.settings.pace)
        self._screen = LiveScreen(scene, self.console)
        return self._screen

    def conclude(self) -> None:
        """Say what came of it."""
        if self.as_json:
            say(json.dumps(self.verdict.as_json(), indent=2))
        elif self._screen is not None:
            self._screen.verdict(self.verdict)
        else:
            say("\n" + "\n".join(plain_lines(self.verdict)))
