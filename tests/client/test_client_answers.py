"""Retryable answers and hedges, with real HTTP workers and virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
from callers import KEYED, calling, names
from stage import DRAINING, SUSPECT, Behaviour, Exchange, Stage, answering, die, hang, stage, until_true

from rumormill.client import NoWorkersError, Pool, RequestNotReplayableError
from rumormill.client.rules.hedging import MIN_ANSWERS
from rumormill.client.selection.breaker import ERRORS_FOR, FAILURE_THRESHOLD, JITTER


def taking(seconds: float) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await trio.sleep(seconds)
        await exchange.answer()

    return behave


@asynccontextmanager
async def waiting(scene: Stage, **settings: Any) -> AsyncIterator[tuple[Pool, httpx2.AsyncClient]]:
    """A pool, and a client without a timeout."""
    async with calling(scene, **settings) as (pool, http):
        http.timeout = httpx2.Timeout(None)
        yield pool, http


async def ask_many(http: httpx2.AsyncClient, requests: int, at_once: int, method: str = "GET") -> Counter[int]:
    """How often each status came back."""
    statuses: Counter[int] = Counter()
    left = iter(range(requests))

    async def ask() -> None:
        for _ in left:
            statuses[(await http.request(method, "/")).status_code] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(ask)
    return statuses


def arrivals(scene: Stage) -> int:
    return sum(len(worker.seen) for worker in scene.workers.values())


# Retries.


@pytest.mark.parametrize("replay", ["idempotent", "always", "never"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_leads_to_the_next_owner_whatever_the_request(status, replay):
    async with stage() as scene, calling(scene, replay=replay) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = answering(status)
        response = await http.post("/", content=b"x", headers=KEYED)
        assert (response.status_code, response.text) == (200, second.name)
        assert names(response) == [first.name, second.name]
        failure = response.extensions["rumormill_attempts"][0].failure
        assert (failure.status, failure.what) == (status, f"answered {status}")
        assert response.extensions["rumormill_worker"].name == second.name


@pytest.mark.parametrize(("method", "asked_again"), [("GET", True), ("POST", False)])
@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_failure_leads_to_the_next_owner_if_the_request_may_be_sent_again(status, method, asked_again):
    async with stage() as scene, calling(scene) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = answering(status)
        response = await http.request(method, "/", headers=KEYED)
        assert response.status_code == (200 if asked_again else status)
        assert len(second.seen) == asked_again


@pytest.mark.parametrize("status", [400, 404, 422, 501, 507])
async def test_every_other_answer_goes_to_the_caller(status):
    async with stage() as scene, calling(scene, replay="always") as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = answering(status)
        assert names(await http.get("/", headers=KEYED)) == [scene.owners("user-1")[0].name]


async def test_the_caller_gets_the_last_real_answer_when_no_worker_is_left():
    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first, second, third = scene.owners("user-1")
        first.behaviour, second.behaviour = answering(503), answering(500, retry_after="7")
        third.kill()
        response = await http.post("/", content=b"x", headers=KEYED)
        assert (response.status_code, response.text, response.headers["Retry-After"]) == (500, second.name, "7")
        assert response.extensions["rumormill_worker"].name == second.name
        assert names(response) == [first.name, second.name, third.name]
        second.behaviour = die
        response = await http.post("/", content=b"x", headers=KEYED)
        assert (response.status_code, response.text) == (503, first.name)
        first.behaviour = die
        with pytest.raises(NoWorkersError):
            await http.post("/", content=b"x", headers=KEYED)


async def test_a_death_after_a_refusal_is_an_error_if_the_request_must_not_be_sent_again():
    async with stage() as scene, calling(scene, replay="never") as (_, http):
        first, second, third = scene.owners("user-1")
        first.behaviour, second.behaviour = answering(503), die
        with pytest.raises(RequestNotReplayableError, match=f"was sent to {second.name}"):
            await http.post("/", content=b"x", headers=KEYED)
        assert not third.seen


async def test_a_streamed_refusal_stays_open_until_another_worker_does_better():
    async def stream(exchange: Exchange) -> None:
        await exchange.begin("text/plain", status=503)
        await exchange.part(b"not now")
        await exchange.end()

    async with stage(workers=2) as scene, calling(scene) as (pool, http):
        first, second = scene.owners("user-1")
        first.behaviour = second.behaviour = stream
        response = await http.get("/", headers=KEYED)
        assert (response.status_code, response.text) == (503, "not now")
        second.behaviour = taking(0)
        assert (await http.get("/", headers=KEYED)).text == second.name
        assert [pool._require_open().upstreams.selector.stats(worker).in_flight for worker in pool.workers] == [0, 0]


async def test_a_one_shot_body_returns_the_refusal_to_the_caller():
    async def chunks():
        for _ in range(9):
            yield b"x" * 2**20

    async with stage() as scene, calling(scene, replay="always") as (_, http):
        scene.owners("user-1")[0].behaviour = answering(503)
        assert (await http.post("/", content=chunks(), headers=KEYED)).status_code == 503


# A worker that keeps failing.


@pytest.mark.parametrize("status", [500, 503])
async def test_a_worker_that_fails_at_once_draws_no_traffic_and_comes_back_when_it_is_well(status, autojump_clock):
    async with stage(limit=600) as scene, waiting(scene) as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = taking(0.2)
        sick = scene.workers["w0"]
        sick.behaviour = answering(status)
        assert await ask_many(http, 300, 20) == {200: 300}
        # Requests in flight when the breaker opened count too.
        assert FAILURE_THRESHOLD <= len(sick.seen) <= FAILURE_THRESHOLD + 20
        sick.behaviour = taking(0.2)
        await trio.sleep(ERRORS_FOR * (1 + JITTER))
        await ask_many(http, 20, 1)
        before = len(sick.seen)
        assert await ask_many(http, 300, 20) == {200: 300}
        assert len(sick.seen) - before > 60


async def test_a_storm_of_the_callers_own_mistakes_opens_no_breaker():
    async with stage() as scene, calling(scene) as (pool, http):
        for worker in scene.workers.values():
            worker.behaviour = answering(400)
        assert await ask_many(http, 300, 20) == {400: 300}
        assert arrivals(scene) == 300
        assert all(pool._require_open().upstreams.selector.stats(worker).breaker.is_closed for worker in pool.workers)


@pytest.mark.parametrize("status", [429, 503])
async def test_when_all_workers_refuse_a_request_costs_hardly_more_than_one_attempt(status, autojump_clock):
    async with stage(workers=10) as scene, calling(scene) as (pool, http):
        for worker in scene.workers.values():
            worker.behaviour = answering(status)
        assert await ask_many(http, 1000, 10) == {status: 1000}
        assert arrivals(scene) == pool.figures().attempts <= 1100
        for worker in scene.workers.values():
            worker.behaviour = taking(0)
        assert (await http.get("/")).status_code == 200


async def test_when_all_workers_are_dead_a_request_costs_hardly_more_than_one_attempt(autojump_clock):
    async with stage(workers=10) as scene, calling(scene) as (pool, http):
        for worker in scene.workers.values():
            worker.kill()
        for _ in range(300):
            with pytest.raises(NoWorkersError):
                await http.get("/")
        assert pool.figures().attempts_per_request <= 1.1


async def test_the_one_worker_that_is_back_is_found_by_the_probe_of_its_breaker_at_the_latest(autojump_clock):
    async with stage(workers=3, limit=600) as scene, calling(scene, replay="always") as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = answering(503)
        await ask_many(http, 50, 5)
        scene.workers["w1"].behaviour = taking(0)
        await trio.sleep(ERRORS_FOR * (1 + JITTER))
        statuses = [(await http.post("/", content=b"x")).status_code for _ in range(50)]
        assert statuses[-40:] == [200] * 40


async def test_retries_stay_within_their_budget_when_one_worker_answers_now_and_then(autojump_clock):
    async def rarely(exchange: Exchange) -> None:
        await exchange.answer(status=200 if len(exchange.worker.seen) % 5 == 0 else 503)

    async with stage() as scene, calling(scene) as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = rarely
        await ask_many(http, 400, 20)
        # The budget starts with a hundred, and a fifth of the good answers is added.
        assert arrivals(scene) <= 400 + 110 + 80


# Hedges.


async def test_requests_at_a_frozen_worker_are_hedged_however_slow_their_kind(autojump_clock):
    async with stage(limit=600) as scene, waiting(scene) as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = taking(1)
        await ask_many(http, 60, 20)
        frozen = scene.workers["w0"]
        frozen.behaviour = hang
        before = len(frozen.seen)
        # No sidecar evicts it.
        assert await ask_many(http, 600, 20) == {200: 600}
        assert len(frozen.seen) - before < 30


@pytest.mark.parametrize("at_once", [10, 50])
async def test_a_new_pool_does_not_hedge_the_most_expensive_requests(at_once, autojump_clock):
    async with stage(limit=600) as scene, waiting(scene, replay="always") as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = taking(6)
        assert await ask_many(http, 50, at_once, "POST") == {200: 50}
        assert arrivals(scene) <= 52


async def test_a_slow_kind_of_request_is_not_hedged_at_the_pace_of_a_quick_one(autojump_clock):
    async def by_path(exchange: Exchange) -> None:
        await trio.sleep(6 if exchange.seen.target == "/generate" else 0.01)
        await exchange.answer()

    async with stage(limit=600) as scene, waiting(scene) as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = by_path
        for _ in range(5):
            await ask_many(http, 20, 5)
            await http.get("/generate")
        assert arrivals(scene) == 105


async def test_late_requests_are_hedged_within_two_per_cent(autojump_clock):
    async def now_and_then_slow(exchange: Exchange) -> None:
        await trio.sleep(1 if len(exchange.worker.seen) % 25 == 0 else 0.01)
        await exchange.answer()

    async with stage(limit=600) as scene, waiting(scene) as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = now_and_then_slow
        await ask_many(http, 500, 20)
        assert 5 <= arrivals(scene) - 500 <= 1 + 500 * 0.02


async def test_a_request_in_flight_at_a_suspect_is_hedged_whatever_is_known_about_its_kind(autojump_clock):
    async with stage() as scene, waiting(scene, replay="always") as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = hang
        answers = []

        async def ask() -> None:
            answers.append(await http.post("/", content=b"x", headers=KEYED))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until_true(lambda: bool(first.seen))
            scene.change(first.name, liveness=SUSPECT)
        assert names(answers[0]) == [first.name, second.name]


async def test_a_worker_that_freezes_under_load_delays_nobody_for_long(autojump_clock):
    """A hundred keyed requests a second; gossip suspects the frozen one 0.4 s later and evicts it after 0.6 s."""
    slowest = 0.0

    async def ask(http: httpx2.AsyncClient, number: int) -> None:
        nonlocal slowest
        began = trio.current_time()
        response = await http.post("/", content=b"x" * (100 + number % 100), headers={"Rumormill-Key": f"{number}"})
        assert response.status_code == 200
        slowest = max(slowest, trio.current_time() - began)

    async with stage() as scene, waiting(scene, replay="always") as (_, http), trio.open_nursery() as nursery:
        for worker in scene.workers.values():
            worker.behaviour = taking(0.005)
        for number in range(300):
            nursery.start_soon(ask, http, number)
            await trio.sleep(0.01)
            match number:
                case 100:
                    scene.workers["w1"].behaviour = hang
                case 140:
                    scene.change("w1", liveness=SUSPECT)
                case 160:
                    scene.evict("w1")
    assert 0.05 <= slowest <= 0.1


async def test_requests_at_a_draining_worker_are_not_hedged(autojump_clock):
    async with stage() as scene, waiting(scene, replay="always") as (_, http):
        first = scene.owners("user-1")[0]
        first.behaviour = taking(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: http.post("/", content=b"x", headers=KEYED))
            await until_true(lambda: bool(first.seen))
            scene.change(first.name, liveness=SUSPECT, readiness=DRAINING)
        assert arrivals(scene) == 1


async def test_a_kind_needs_enough_answers_before_one_is_late(autojump_clock):
    async with stage(workers=2) as scene, calling(scene) as (_, http):
        first, _ = scene.owners("user-1")
        for _ in range(MIN_ANSWERS - 1):
            await http.get("/", headers=KEYED)
        first.behaviour = hang
        with pytest.raises(httpx2.ReadTimeout):
            await http.get("/", headers=KEYED, timeout=5)
