"""One deadline for all attempts: what each gets of it, what workers are told, and when a refusal is waited for."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from limits import LIVENESS_LIMIT
from stage import Behaviour, Exchange, Stage, answering, hang, stage, stage_in_thread

from rumormill.client import NoWorkersError, Pool, SyncPool
from rumormill.client.rules.deadline import (
    DEADLINE_HEADER,
    JITTER_BASE,
    JITTER_CAP,
    RefusalBackoff,
    deadline_header,
    deadline_of,
    limit_timeouts,
)

KEY = {"Rumormill-Key": "ada"}


@asynccontextmanager
async def calling(scene: Stage, timeout: float | None = LIVENESS_LIMIT) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        Pool(scene.urls, "embed", hedge=False, patience=LIVENESS_LIMIT) as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=timeout) as http,
    ):
        yield http


def told(scene: Stage) -> list[int]:
    """The deadlines that workers were told, in milliseconds, the longest first."""
    seen = [seen.headers for worker in scene.workers.values() for seen in worker.seen]
    return sorted((int(headers[DEADLINE_HEADER.lower()]) for headers in seen), reverse=True)


def dying_after(seconds: float) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await trio.sleep(seconds)
        await exchange.die()

    return behave


def refusing_at_first(times: int, **headers: str) -> Behaviour:
    left = [None] * times

    async def behave(exchange: Exchange) -> None:
        if left:
            left.pop()
            await exchange.answer(status=503, **headers)
        else:
            await exchange.answer()

    return behave


async def test_each_attempt_is_told_what_is_left(autojump_clock) -> None:
    async with stage() as scene, calling(scene) as http:
        first = scene.owners("ada")[0]
        first.behaviour = dying_after(0.3)
        await http.get("/", headers=KEY)
        began, then = told(scene)
    assert began <= LIVENESS_LIMIT * 1000
    assert then <= began - 300


async def test_the_header_counts_if_it_is_earlier_than_the_timeout(autojump_clock) -> None:
    async with stage() as scene, calling(scene) as http:
        await http.get("/", headers={DEADLINE_HEADER: "30000"})
        await http.get("/", headers={DEADLINE_HEADER: "1000000"})
        longer, shorter = told(scene)
    assert 1 < shorter <= 30_000 < longer <= LIVENESS_LIMIT * 1000


async def test_without_a_deadline_workers_are_told_none() -> None:
    async with stage() as scene, calling(scene, timeout=None) as http:
        await http.get("/")
    (seen,) = [seen for worker in scene.workers.values() for seen in worker.seen]
    assert DEADLINE_HEADER.lower() not in seen.headers


async def test_the_second_attempt_has_only_what_the_first_left(autojump_clock) -> None:
    async with stage() as scene, calling(scene) as http:
        first, *others = scene.owners("ada")
        first.behaviour = dying_after(0.3)
        for worker in others:
            worker.behaviour = hang
        with pytest.raises(httpx2.ReadTimeout):
            await http.get("/", headers=KEY, timeout=0.5)
        assert told(scene)[1] <= 200


async def test_after_the_deadline_no_worker_is_asked() -> None:
    async with stage() as scene, calling(scene) as http:
        with pytest.raises(httpx2.ReadTimeout, match="the deadline passed"):
            await http.get("/", headers={DEADLINE_HEADER: "0"})
    assert told(scene) == []


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "99999999999"])
async def test_a_deadline_that_is_no_number_is_told(value: str) -> None:
    async with stage(workers=1) as scene, calling(scene) as http:
        with pytest.raises(httpx2.LocalProtocolError, match="give milliseconds, such as 1500"):
            await http.get("/", headers={DEADLINE_HEADER: value})


async def test_a_stream_has_the_caller_s_own_timeout_after_its_head(autojump_clock) -> None:
    async def slowly(exchange: Exchange) -> None:
        await exchange.begin("text/event-stream")
        for piece in (b"one ", b"two"):
            await trio.sleep(0.5)
            await exchange.part(piece)
        await exchange.end()

    async with stage(workers=1) as scene, calling(scene) as http:
        scene.workers["w0"].behaviour = slowly
        assert (await http.get("/", headers={DEADLINE_HEADER: "400"})).text == "one two"


async def test_a_refusal_that_names_a_time_is_waited_for(autojump_clock) -> None:
    async with stage() as scene, calling(scene) as http:
        for worker in scene.workers.values():
            worker.behaviour = refusing_at_first(1, Retry_After="1")
        began = trio.current_time()
        response = await http.post("/", content=b"once")
        assert response.status_code == 200
        assert trio.current_time() - began > 1.0
        failed = [attempt.failure is not None for attempt in response.extensions["rumormill_attempts"]]
        assert failed == [True, True, True, False]


@pytest.mark.parametrize("retry_after", ["3600", "soon", None])
async def test_a_refusal_is_not_waited_for_beyond_the_deadline_or_without_a_time(retry_after: str | None) -> None:
    named = {} if retry_after is None else {"Retry_After": retry_after}
    async with stage() as scene, calling(scene) as http:
        for worker in scene.workers.values():
            worker.behaviour = answering(503, **named)
        assert (await http.get("/")).status_code == 503
    assert len(told(scene)) == 3


async def test_while_nobody_serves_the_budget_bounds_the_waiting(autojump_clock) -> None:
    async with stage(workers=1) as scene, calling(scene) as http:
        scene.workers["w0"].behaviour = answering(503, Retry_After="0")
        statuses, began = [], trio.current_time()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                for _ in range(5):
                    with suppress(NoWorkersError, httpx2.ReadTimeout):  # a busy machine may take too long
                        statuses.append((await http.get("/", headers={DEADLINE_HEADER: "3000"})).status_code)

            for _ in range(20):
                nursery.start_soon(ask)
    assert set(statuses) == {503}
    saved, refilled = 5, 100 / 50 + trio.current_time() - began
    assert len(told(scene)) <= 100 + saved + refilled + 1


async def test_a_caller_that_gives_up_while_it_waits_is_let_go(autojump_clock) -> None:
    async with stage() as scene, calling(scene) as http:
        for worker in scene.workers.values():
            worker.behaviour = answering(503, Retry_After="60")
        with trio.move_on_after(0.3) as scope:
            await http.get("/")
        assert scope.cancelled_caught


def test_in_threads_the_rules_are_the_same() -> None:
    with stage_in_thread() as staged, SyncPool(staged.scene.urls, "embed", hedge=False) as pool:
        for worker in staged.scene.workers.values():
            worker.behaviour = refusing_at_first(1, Retry_After="1")
        with httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            began = time.monotonic()
            assert http.get("/").status_code == 200
            assert time.monotonic() - began > 1.0
            with pytest.raises(httpx2.ReadTimeout):
                http.get("/", headers={DEADLINE_HEADER: "0"})
    assert told(staged.scene)[-1] <= told(staged.scene)[0] - 1000


# The rules themselves.


def test_the_earlier_of_two_deadlines_counts() -> None:
    assert deadline_of(None, None, 10.0) == float("inf")
    assert deadline_of(None, {"read": None}, 10.0) == float("inf")
    assert deadline_of(None, {"read": 5.0}, 10.0) == 15.0
    assert deadline_of(b"1500", {"read": 5.0}, 10.0) == 11.5
    assert deadline_of(b"1500", {"read": 1.0}, 10.0) == 11.0


def test_no_step_of_an_attempt_takes_longer_than_what_is_left() -> None:
    timeout: dict[str, float | None] = {"connect": 0.5, "read": 5.0, "write": None}
    limit_timeouts(timeout, 2.0)
    assert timeout == {"connect": 0.5, "read": 2.0, "write": 2.0, "pool": 2.0}
    limit_timeouts(timeout, -1.0)
    assert set(timeout.values()) == {0.0}
    assert deadline_header(1.5) == (b"Rumormill-Deadline", b"1500")
    assert deadline_header(-1.0) == (b"Rumormill-Deadline", b"0")


@given(st.integers(), st.integers(0, 100), st.floats(0, 1000))
def test_a_pause_is_as_long_as_asked_jittered_and_within_the_deadline(seed: int, seconds: int, left: float) -> None:
    backoff = RefusalBackoff(random.Random(seed))
    for _ in range(5):
        pause = backoff.pause(503, str(seconds), left)
        if pause is None:
            assert seconds + JITTER_CAP >= left
            return
        assert seconds + JITTER_BASE <= pause <= seconds + JITTER_CAP
        assert pause < left


def test_callers_refused_together_do_not_come_back_together() -> None:
    backoffs = [RefusalBackoff(random.Random(seed)) for seed in range(200)]
    spreads = []
    for _ in range(4):
        pauses = [backoff.pause(429, "1", 100.0) or 0.0 for backoff in backoffs]
        spreads.append(max(pauses) - min(pauses))
    assert spreads[0] > JITTER_BASE
    assert spreads[-1] > 1.0, "each time, they spread further"
