"""Hedges that the owners of expensive workers accept: what is hedged, what it costs, and how the loser ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest
import trio
from callers import KEYED, names
from limits import LIVENESS_LIMIT
from stage import Exchange, hang, stage, stage_in_thread
from test_client_answers import arrivals, ask_many, taking, waiting

from rumormill.client import Pool, SyncPool
from rumormill.client.rules.hedging import MIN_ANSWERS

STREAMS = [
    {"json": {"stream": True}, "headers": KEYED},
    {"content": b'{"messages": [], "stream" : true}', "headers": KEYED},
    {"json": {"input": "x"}, "headers": KEYED | {"Accept": "text/event-stream"}},
]


async def known(http: httpx2.AsyncClient, **request: Any) -> None:
    """Enough answers to requests of this kind, so that one can be late."""
    for _ in range(MIN_ANSWERS + 10):
        await http.post("/", **request)


async def test_the_loser_sees_its_connection_closed_and_figures_say_cost_and_gain(autojump_clock):
    async with stage() as scene, waiting(scene, replay="always") as (pool, http):
        first, second, _ = scene.owners("user-1")
        await known(http, content=b"x", headers=KEYED)
        first.behaviour = hang
        before = pool.figures()
        assert (before.hedges, before.hedges_won, before.overtaken_seconds) == (0, 0, 0.0)
        assert names(await http.post("/", content=b"x", headers=KEYED)) == [first.name, second.name]
        with trio.fail_after(LIVENESS_LIMIT):
            await first.hung_up.wait()
        after = pool.figures()
        assert (after.requests, after.attempts) == (before.requests + 1, before.attempts + 2)
        assert (after.hedges, after.hedges_won) == (1, 1)
        assert after.overtaken_seconds == pytest.approx(0.05, abs=0.02)
        assert after.hedge_share == 1 / after.requests


def test_a_thread_that_lost_closes_its_connection_too() -> None:
    with (
        stage_in_thread() as staged,
        SyncPool(staged.scene.urls, "embed", replay="always", hedge_after=0.05) as pool,
        httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
    ):
        first = staged.scene.owners("user-1")[0]
        first.behaviour = hang
        assert names(http.post("/", content=b"x", headers=KEYED))[0] == first.name
        staged.do(first.hung_up.wait)
        assert pool.figures().hedges_won == 1


@pytest.mark.parametrize("request_", STREAMS)
async def test_a_request_for_a_stream_is_not_hedged_for_lateness(request_, autojump_clock):
    async with stage() as scene, waiting(scene, replay="always") as (pool, http):
        await known(http, **request_)
        scene.owners("user-1")[0].behaviour = taking(30)
        await http.post("/", **request_)
        assert pool.figures().hedges == 0


async def test_a_post_that_must_not_be_sent_again_is_never_hedged(autojump_clock):
    async with stage() as scene, waiting(scene, hedge_after=0.01) as (pool, http):
        await known(http, content=b"x", headers=KEYED)
        scene.owners("user-1")[0].behaviour = taking(30)
        await http.post("/", content=b"x", headers=KEYED)
        assert pool.figures().hedges == 0
        await http.get("/", headers=KEYED)
        assert pool.figures().hedges == 1, "a GET may be"


async def test_a_fixed_delay_needs_no_known_kind(autojump_clock):
    async with stage() as scene, waiting(scene, replay="always", hedge_after=0.3) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = hang
        began = trio.current_time()
        assert names(await http.post("/", content=b"x", headers=KEYED)) == [first.name, second.name]
        assert trio.current_time() - began == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("delay", [0.0, -1.0, float("inf"), float("nan")])
def test_a_delay_that_is_no_time_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match=r"hedge_after=.* is no time"):
        Pool(["http://127.0.0.1:7380"], "embed", hedge_after=delay)


async def test_each_size_class_has_its_own_delay(autojump_clock):
    async def by_size(exchange: Exchange) -> None:
        await trio.sleep(6 if len(exchange.seen.body) > 10_000 else 0.01)
        await exchange.answer()

    async with stage(limit=900) as scene, waiting(scene, replay="always") as (pool, http):
        for worker in scene.workers.values():
            worker.behaviour = by_size
        await known(http, content=b"x", headers=KEYED)
        await known(http, content=b"x" * 20_000, headers=KEYED)
        assert pool.figures().hedges == 0
        scene.owners("user-1")[0].behaviour = hang
        began = trio.current_time()
        await http.post("/", content=b"x", headers=KEYED)
        assert trio.current_time() - began < 1, "the short request does not wait as long as the long ones take"


async def test_a_service_whose_answers_vary_is_hedged_within_two_per_cent(autojump_clock):
    async def uneven(exchange: Exchange) -> None:
        await trio.sleep(0.02 * (1 + len(exchange.worker.seen) % 17) ** 1.5)
        await exchange.answer()

    async with stage(limit=900) as scene, waiting(scene) as (pool, http):
        for worker in scene.workers.values():
            worker.behaviour = uneven
        await ask_many(http, 1000, 10)
        figures = pool.figures()
        assert arrivals(scene) == figures.attempts == 1000 + figures.hedges
        assert figures.hedge_share <= 0.021


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: list[str], task: Callable[[], Any]) -> None:
    """Count the calls of this function by the caller's own task."""
    inner, caller = getattr(owner, name), task()

    def count(*arguments: Any, **named: Any) -> Any:
        if task() is caller:
            calls.append(name)
        return inner(*arguments, **named)

    monkeypatch.setattr(owner, name, count)


def current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def test_a_request_that_is_answered_in_time_starts_no_task_and_sets_no_timer(monkeypatch) -> None:
    async def call() -> list[str]:
        calls: list[str] = []
        async with (
            Pool(staged.scene.urls, "embed", replay="always") as pool,
            httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
        ):
            await known(http, content=b"x")
            loop = asyncio.get_running_loop()
            with monkeypatch.context() as patch:
                for owner, name in [(loop, "call_at"), (loop, "call_later"), (loop, "create_task")]:
                    counted(patch, owner, name, calls, current_task)
                counted(patch, anyio, "create_task_group", calls, current_task)
                for _ in range(20):
                    assert (await http.post("/", content=b"x")).status_code == 200
            assert pool.figures().hedges == 0
            await asyncio.sleep(0.01)
        return calls

    with stage_in_thread() as staged:
        assert asyncio.run(call()) == []
