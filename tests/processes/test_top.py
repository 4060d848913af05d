"""`rumormill top` on a real pool, in a terminal of 80 by 24: it follows a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import trio
from agents import Agent, Worker
from limits import LIVENESS_LIMIT
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from rumormill.cli.http_client import SidecarClient
from rumormill.cli.top.screen import TopScreen


def texts(screen: TopScreen) -> str:
    """What the screen shows, as one text."""
    table = screen.query_one(DataTable)
    rows = [" ".join(map(str, table.get_row_at(number))) for number in range(table.row_count)]
    lines = [line.text for line in screen.query_one(RichLog).lines]
    return "\n".join([str(screen.query_one("#summary", Static).render()), *rows, *lines])


async def shows(pilot: Pilot[None], *wanted: str) -> None:
    async with asyncio.timeout(LIVENESS_LIMIT):
        while not all(text in texts(screen_of(pilot)) for text in wanted):
            await pilot.pause(0.1)


def screen_of(pilot: Pilot[None]) -> TopScreen:
    assert isinstance(pilot.app, TopScreen)
    return pilot.app


def in_terminal(url: str, story: Callable[[Pilot[None]], object]) -> None:
    async def run() -> None:
        screen = TopScreen(SidecarClient(url, None, None, None, None), every=0.2)
        async with screen.run_test(size=(80, 24)) as pilot:
            await story(pilot)  # type: ignore[misc]

    asyncio.run(run())


async def test_it_follows_a_kill_and_filters_by_a_key(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = ("--insecure-plaintext",)
        w1 = await Agent.start(nursery, "w1", worker, *flags)
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, *flags)
        w3 = await Agent.start(nursery, "w3", worker, "--join", w1.gossip, *flags)
        await w2.until(lambda answer: {worker.name for worker in answer.workers} == {"w1", "w2", "w3"})

        async def story(pilot: Pilot[None]) -> None:
            await shows(pilot, "3 take work", "● alive", "✔ passing", "w3", "PLAINTEXT")
            w3.process.kill()
            await shows(pilot, "✖ dead", "w3 evicted: 3 misses seen by", "1 dead")
            await pilot.press("slash", *"dead", "enter")
            async with asyncio.timeout(LIVENESS_LIMIT):
                while screen_of(pilot).query_one(DataTable).row_count != 1:
                    await pilot.pause(0.1)
            await shows(pilot, "✖ dead")
            await pilot.press("escape")
            await shows(pilot, "● alive")
            w1.process.kill()
            await shows(pilot, "no sidecar can be reached", "trying again")

        await trio.to_thread.run_sync(in_terminal, w1.http, story)
        nursery.cancel_scope.cancel()
