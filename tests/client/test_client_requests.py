"""Requests through a pool on trio: selection, failover, and the errors that a caller sees."""

from __future__ import annotations

import random

import httpx2
import pytest
import trio
from callers import KEYED, calling, names
from limits import LIVENESS_LIMIT
from stage import CRITICAL, DRAINING, SUSPECT, Exchange, die, hang, stage, until_true

from rumormill.client import (
    NoWorkersError,
    Pool,
    PoolError,
    RequestNotReplayableError,
    ResponseInterruptedError,
)
from rumormill.client.connections.direct_check import ANSWER_TIMEOUT
from rumormill.client.rules.hedging import MIN_ANSWERS


async def test_a_keyed_request_goes_to_the_owner_and_unkeyed_ones_to_all():
    async with stage() as scene, calling(scene, hedge=False) as (pool, http):
        for index in range(20):
            key = f"user-{index}"
            response = await http.get("/who?x=1", headers={"Rumormill-Key": key})
            assert response.text == pool.owners(key, 1)[0].name == scene.owners(key)[0].name
            assert response.extensions["rumormill_worker"].name == response.text
        assert {(await http.get("/who")).text for _ in range(100)} == {"w0", "w1", "w2"}


async def test_a_rush_without_keys_is_spread_evenly_over_workers_that_are_all_busy():
    """No worker answers before all requests have arrived, so only the requests in flight decide."""
    async with stage() as scene, calling(scene, hedge=False, rng=random.Random(1)) as (_, http):
        everyone = trio.Event()

        async def hold(exchange: Exchange) -> None:
            if sum(len(worker.seen) for worker in scene.workers.values()) == 90:
                everyone.set()
            await everyone.wait()
            await exchange.answer()

        for worker in scene.workers.values():
            worker.behaviour = hold
        async with trio.open_nursery() as nursery:
            for _ in range(90):
                nursery.start_soon(http.get, "/")
        shares = sorted(len(worker.seen) for worker in scene.workers.values())
        assert sum(shares) == 90, "and none was sent twice"
        assert shares[-1] - shares[0] <= 4, shares


async def test_a_worker_of_weight_0_is_asked_for_nothing_not_even_when_nobody_else_is_left():
    async with stage(workers=2) as scene, calling(scene) as (pool, http):
        idle, other = scene.workers["w0"], scene.workers["w1"]

        async def weigh(thousandths: int) -> None:
            scene.change("w0", weight=thousandths)
            while [worker.weight for worker in pool.workers if worker.name == "w0"] != [thousandths / 1000]:
                await pool.changed(pool.topology)

        await weigh(0)
        for index in range(50):
            await http.get("/", headers={"Rumormill-Key": f"user-{index}"} if index % 2 else {})
        assert (len(idle.seen), len(other.seen)) == (0, 50)
        assert [worker.name for worker in pool.owners("user-1")] == ["w1"]
        scene.evict("w1")
        other.kill()
        with pytest.raises(NoWorkersError, match="w0 alive/passing weight 0"):
            await http.get("/")
        assert idle.seen == []
        await weigh(500)
        assert (await http.get("/")).text == "w0"
        await weigh(0)
        with pytest.raises(NoWorkersError):
            await http.get("/")
        assert len(idle.seen) == 1


async def test_what_the_caller_sent_reaches_the_worker_unchanged_but_for_the_address():
    async with stage(workers=1) as scene:
        worker = scene.workers["w0"]
        scene.change("w0", url=worker.url + "/base/")
        async with calling(scene) as (_, http):
            await http.post("/v1/embed?q=a%20b", json={"a": 1}, headers=KEYED | {"X-Mine": "yes"})
        (seen,) = worker.seen
        assert (seen.method, seen.target, seen.body) == ("POST", "/base/v1/embed?q=a%20b", b'{"a":1}')
        assert seen.headers["host"] == f"127.0.0.1:{worker.port}"
        assert seen.headers["x-mine"] == "yes"


@pytest.mark.parametrize("replay", ["idempotent", "always", "never"])
async def test_a_refused_connection_leads_to_the_next_owner_whatever_the_request(replay):
    async with stage() as scene, calling(scene, replay=replay) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.kill()
        response = await http.post("/", content=b"x", headers=KEYED)
        assert response.text == second.name
        assert names(response) == [first.name, second.name]
        # The breaker of the failed worker is open, so the next request does not pay again.
        assert names(await http.post("/", content=b"x", headers=KEYED)) == [second.name]


async def test_a_replayable_request_survives_the_death_of_the_worker_it_was_sent_to():
    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = die
        response = await http.post("/", content=b"the body", headers=KEYED)
        assert response.text == second.name
        assert [w.seen[0].body for w in (first, second)] == [b"the body"] * 2
        failure = response.extensions["rumormill_attempts"][0].failure
        assert failure.sent


@pytest.mark.parametrize(
    ("method", "headers", "replayed"),
    [("GET", {}, True), ("PUT", {}, True), ("POST", {}, False), ("POST", {"Idempotency-Key": "1"}, True)],
)
async def test_what_was_sent_is_replayed_only_where_that_is_harmless(method, headers, replayed):
    async with stage() as scene, calling(scene) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = die
        if replayed:
            assert (await http.request(method, "/", headers=KEYED | headers)).text == second.name
            return
        with pytest.raises(RequestNotReplayableError) as caught:
            await http.request(method, "/v1/x", headers=KEYED | headers)
        assert not second.seen
        error = caught.value
        assert error.worker.name == first.name
        assert "POST is not idempotent" in error.reason
        assert error.request.url == "http://embed/v1/x"
        for part in ("POST /v1/x was sent to", first.name, first.url, "may have acted on it", 'replay="always"'):
            assert part in str(error)
        assert isinstance(error, httpx2.TransportError)
        assert isinstance(error.__cause__, httpx2.TransportError)


async def test_never_means_never_even_for_a_get():
    async with stage() as scene, calling(scene, replay="never") as (pool, http):
        scene.owners("user-1")[0].behaviour = die
        with pytest.raises(RequestNotReplayableError, match='replay="never" forbids it'):
            await http.get("/", headers=KEYED)
        async with httpx2.AsyncClient(
            transport=pool.transport(replay="always"), base_url="http://x", timeout=LIVENESS_LIMIT
        ) as lenient:
            assert (await lenient.get("/", headers=KEYED)).status_code == 200


async def test_every_worker_is_tried_once_and_then_the_error_tells_the_topology():
    async with stage() as scene, calling(scene) as (_, http):
        for worker in scene.workers.values():
            worker.behaviour = die
        with pytest.raises(NoWorkersError) as caught:
            await http.get("/", headers=KEYED)
        assert [len(worker.seen) for worker in scene.workers.values()] == [1, 1, 1]
        assert [a.worker.name for a in caught.value.attempts] == [w.name for w in scene.owners("user-1")]
        assert [w.name for w in caught.value.topology.workers] == ["w0", "w1", "w2"]
        for part in ("no worker of service 'embed' answered GET /", "w2 alive/passing", scene.urls[0]):
            assert part in str(caught.value)


async def test_a_service_nobody_serves_is_an_error_that_says_so():
    async with stage(workers=0) as scene, calling(scene) as (pool, http):
        with pytest.raises(NoWorkersError, match=r"service 'embed' has no worker to ask.*service's name right"):
            await http.get("/")
        with pytest.raises(NoWorkersError), pool.acquire("user-1"):
            pass


async def test_suspects_are_asked_last_and_the_unready_only_when_nobody_else_is_left():
    async with stage() as scene, calling(scene) as (pool, http):
        first, second, third = scene.owners("user-1")
        scene.change(first.name, liveness=SUSPECT)
        await pool.changed(pool.topology)
        assert names(await http.get("/", headers=KEYED)) == [second.name]
        assert pool.owners("user-1", 1)[0].name == first.name
        second.kill()
        third.behaviour = die
        assert names(await http.get("/", headers=KEYED)) == [second.name, third.name, first.name]
        known = pool.topology
        scene.change(first.name, readiness=CRITICAL)
        await pool.changed(known)
        assert (await http.get("/", headers=KEYED)).text == first.name


async def test_an_evicted_worker_is_a_last_resort_when_its_sidecar_died_alone():
    async with stage(workers=1) as scene, calling(scene) as (pool, http):
        known = pool.topology
        scene.evict("w0")
        assert (await pool.changed(known)).workers == ()
        assert (await http.get("/")).text == "w0"


async def test_a_late_answer_is_hedged_to_the_next_owner_and_the_loser_is_cancelled():
    async with stage() as scene, calling(scene) as (_, http):
        first, second, _ = scene.owners("user-1")
        for _ in range(MIN_ANSWERS):
            await http.get("/", headers=KEYED)
        first.behaviour = hang
        began = trio.current_time()
        response = await http.get("/", headers=KEYED)
        assert trio.current_time() - began >= 0.05
        assert response.text != first.name
        assert names(response)[:2] == [first.name, second.name]
        assert [a.hedge for a in response.extensions["rumormill_attempts"]][:2] == [False, True]
        await first.hung_up.wait()


async def test_the_first_worker_may_still_win_over_its_hedge():
    async with stage(workers=2) as scene, calling(scene) as (_, http):
        first, second = scene.owners("user-1")
        for _ in range(MIN_ANSWERS):
            await http.get("/", headers=KEYED)

        async def answer_after_the_hedge(exchange: Exchange) -> None:
            await until_true(lambda: bool(second.seen))
            await exchange.answer()

        first.behaviour, second.behaviour = answer_after_the_hedge, hang
        response = await http.get("/", headers=KEYED)
        assert response.text == first.name
        await second.hung_up.wait()


async def test_what_is_not_replayable_is_never_hedged(autojump_clock):
    async with stage() as scene, calling(scene) as (_, http):
        first, second, third = scene.owners("user-1")
        first.behaviour = hang
        with pytest.raises(httpx2.ReadTimeout):
            await http.post("/", content=b"x", headers=KEYED, timeout=1.5)
        assert not second.seen
        assert not third.seen


async def test_the_callers_own_time_limit_stays_an_httpx_timeout():
    async with stage(workers=1) as scene, calling(scene, hedge=False) as (_, http):
        scene.workers["w0"].behaviour = hang
        with pytest.raises(httpx2.ReadTimeout) as raised:
            await http.get("/", timeout=httpx2.Timeout(LIVENESS_LIMIT, read=0.05))
        assert [attempt.worker.name for attempt in raised.value.attempts] == ["w0"]  # type: ignore[attr-defined]


async def test_an_attempt_is_aborted_when_its_worker_is_evicted_and_answers_nothing():
    async with stage() as scene, calling(scene, replay="always", hedge=False) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = hang
        async with trio.open_nursery() as nursery:
            answers = []

            async def ask() -> None:
                answers.append(await http.post("/", content=b"x", headers=KEYED, timeout=None))

            nursery.start_soon(ask)
            await first.arrived.wait()
            scene.evict(first.name)
        assert answers[0].text == second.name
        reason = f"{first.name} was evicted or left, and does not answer within {ANSWER_TIMEOUT:g} s"
        assert answers[0].extensions["rumormill_attempts"][0].failure.what == reason


async def test_an_aborted_attempt_that_must_not_be_replayed_is_an_error_that_says_so():
    async with stage() as scene, calling(scene, replay="never") as (_, http):
        first = scene.owners("user-1")[0]
        first.behaviour = hang
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(RequestNotReplayableError, match=f"{first.name} was evicted or left"):
                    await http.post("/", content=b"x", headers=KEYED, timeout=None)

            await first.arrived.wait()
            scene.evict(first.name)


async def test_a_draining_worker_finishes_its_old_work_even_after_it_has_left():
    async with stage() as scene, calling(scene, replay="never") as (pool, http):
        first, second, _ = scene.owners("user-1")
        released = trio.Event()

        async def answer_when_released(exchange: Exchange) -> None:
            await released.wait()
            await exchange.answer()

        first.behaviour = answer_when_released
        answers = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                answers.append(await http.post("/", content=b"x", headers=KEYED))

            await first.arrived.wait()
            known = pool.topology
            scene.change(first.name, readiness=DRAINING)
            known = await pool.changed(known)
            # New requests go elsewhere.
            assert (await http.post("/", content=b"x", headers=KEYED)).text == second.name
            scene.evict(first.name)
            await pool.changed(known)
            released.set()
        assert answers[0].text == first.name


async def test_a_worker_with_an_unusable_url_is_skipped():
    async with stage() as scene:
        first, second, _ = scene.owners("user-1")
        scene.change(first.name, url="http://[")
        async with calling(scene) as (_, http):
            assert (await http.get("/", headers=KEYED)).text == second.name


async def test_acquire_counts_the_worker_as_busy_and_opens_its_breaker_on_a_connection_error():
    async with stage(workers=2) as scene, calling(scene) as (pool, _):
        with pool.acquire() as one, pool.acquire() as other:
            busy = {worker.name for worker in (one, other)}
            # The less busy of two random workers is taken. Both draws may be the same worker.
            assert busy <= {"w0", "w1"}
        first, second = scene.owners("user-1")
        with pytest.raises(OSError, match=f"{first.name} refused"), pool.acquire("user-1") as worker:
            raise OSError(f"{worker.name} refused")
        with pool.acquire("user-1") as worker:
            assert worker.name == second.name


async def test_an_error_of_the_callers_own_leaves_the_pool_as_it_is():
    async with stage() as scene:
        with pytest.raises(ZeroDivisionError):
            async with Pool(scene.urls, "embed"):
                raise ZeroDivisionError
        with pytest.raises(RuntimeError, match="not open"):
            Pool(scene.urls, "embed").owners("k")


async def test_a_cancelled_request_leaves_nothing_behind():
    async with stage(workers=1) as scene, calling(scene) as (pool, http):
        scene.workers["w0"].behaviour = hang
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http.get, "/")
            await scene.workers["w0"].arrived.wait()
            nursery.cancel_scope.cancel()
        await scene.workers["w0"].hung_up.wait()
        assert pool._require_open().upstreams.selector.stats(pool.workers[0]).in_flight == 0


def test_errors_are_one_family_that_httpx_callers_already_catch():
    for error in (NoWorkersError, RequestNotReplayableError, ResponseInterruptedError):
        assert issubclass(error, PoolError)
        assert issubclass(error, httpx2.TransportError)
