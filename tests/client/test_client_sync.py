"""The synchronous pool, and the asynchronous one on asyncio. The stage runs on trio in a thread."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import pytest
import trio
from callers import KEYED, calling_in_thread
from limits import LIVENESS_LIMIT
from stage import Exchange, answer, die, hang

from rumormill.client import (
    NoWorkersError,
    Pool,
    RequestNotReplayableError,
    ResponseInterruptedError,
    SyncPool,
)
from rumormill.client.rules.hedging import MIN_ANSWERS


async def three_events(exchange: Exchange, content_type: str = "text/event-stream") -> None:
    await exchange.begin(content_type)
    for number in range(3):
        await exchange.part(b"data: %d\n\n" % number)
    await exchange.end()


def test_threads_share_one_pool(scene):
    with SyncPool(scene.scene.urls, "embed", bounded_load=False) as pool, ThreadPoolExecutor(8) as threads:

        def ask(index: int) -> bool:
            key = f"user-{index}"
            with httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
                response = http.post("/", json=index, headers={"Rumormill-Key": key})
            return response.text == pool.owners(key, 1)[0].name

        assert all(threads.map(ask, range(50)))
        assert [worker.name for worker in pool.workers] == ["w0", "w1", "w2"]


def test_a_cluster_can_be_required_in_threads_too(scene):
    with SyncPool(scene.scene.urls, "embed", cluster="prod") as pool:
        assert len(pool.workers) == 3
    why = "of cluster 'prod', and this pool requires 'staging'"
    with SyncPool(scene.scene.urls, "embed", cluster="staging") as pool, pytest.raises(NoWorkersError, match=why):
        pool.send(httpx2.Request("GET", "http://embed/"))


def test_failures_are_met_as_in_the_asynchronous_pool(scene):
    first, second, _ = scene.scene.owners("user-1")
    with calling_in_thread(scene) as (pool, http):
        first.behaviour = die
        assert http.get("/", headers=KEYED).text == second.name
        for worker in scene.scene.workers.values():
            worker.behaviour = die
        with pytest.raises(RequestNotReplayableError, match="POST is not idempotent"):
            http.post("/", headers=KEYED, content=b"x")
        with pytest.raises(NoWorkersError):
            http.get("/", headers=KEYED)
        strict = httpx2.Client(
            transport=pool.transport(replay="never"), base_url="http://embed", timeout=LIVENESS_LIMIT
        )
        with strict, pytest.raises(RequestNotReplayableError, match="forbids"):
            strict.get("/", headers=KEYED)


def test_a_late_answer_is_hedged_for_threads_too(scene):
    first, second, _ = scene.scene.owners("user-1")
    with calling_in_thread(scene) as (_, http):
        for _ in range(MIN_ANSWERS):
            http.get("/", headers=KEYED)
        first.behaviour = hang
        assert http.get("/", headers=KEYED).text == second.name
    scene.do(first.hung_up.wait)


def test_streams_pass_as_they_come_in_both_directions(scene):
    first = scene.scene.owners("user-1")[0]
    first.behaviour = three_events
    with calling_in_thread(scene) as (_, http):
        with http.stream("GET", "/", headers=KEYED) as response:
            assert b"".join(response.iter_bytes()) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        with http.stream("GET", "/", headers=KEYED) as response:
            assert next(response.iter_bytes()).startswith(b"data: 0")
        first.behaviour = answer
        assert http.post("/", content=iter([b"a", b"b"]), headers=KEYED).text == first.name
        assert first.seen[-1].body == b"ab"
        assert http.post("/", content=iter([b"x" * 2**20] * 9), headers=KEYED).text == first.name
        assert len(first.seen[-1].body) == 9 * 2**20


def test_chunked_json_passes_as_it_comes_in_a_thread_too(scene):
    more = trio.Event()

    async def in_parts(exchange: Exchange) -> None:
        await exchange.begin("application/json")
        await exchange.part(b"[1,")
        await more.wait()
        await exchange.part(b"2]")
        await exchange.end()

    first = scene.scene.owners("user-1")[0]
    first.behaviour = in_parts
    with calling_in_thread(scene, hedge=False) as (_, http):
        with http.stream("GET", "/", headers=KEYED) as response:
            chunks = response.iter_bytes()
            assert next(chunks) == b"[1,"
            scene.do(more.set)
            assert b"".join(chunks) == b"2]"
        assert http.get("/", headers=KEYED).json() == [1, 2]


def test_a_stream_in_a_thread_ends_with_an_error_when_its_worker_is_evicted(scene):
    async def begin_and_hang(exchange: Exchange) -> None:
        await exchange.begin("text/event-stream")
        await exchange.part(b"data: 1\n\n")
        await exchange.hang()

    first = scene.scene.owners("user-1")[0]
    first.behaviour = begin_and_hang
    with calling_in_thread(scene) as (_, http), http.stream("GET", "/", headers=KEYED) as response:
        chunks = response.iter_bytes()
        assert next(chunks) == b"data: 1\n\n"
        first.behaviour = hang
        scene.do(scene.scene.evict, first.name)
        with pytest.raises(ResponseInterruptedError, match="was evicted or left"):
            next(chunks)


def test_acquire_and_changed_in_threads(scene):
    first, second, _ = scene.scene.owners("user-1")
    with SyncPool(scene.scene.urls, "embed") as pool:
        with pytest.raises(ConnectionError, match=first.name), pool.acquire("user-1") as worker:
            raise ConnectionError(worker.name)
        with pool.acquire("user-1") as worker:
            assert worker.name == second.name
        known = pool.topology
        with pytest.raises(TimeoutError):
            pool.changed(known, timeout=0.01)
        scene.do(scene.scene.evict, first.name)
        assert first.name not in [worker.name for worker in pool.changed(known, timeout=LIVENESS_LIMIT).workers]


def test_a_pool_out_of_its_place_says_so(scene):
    pool = SyncPool(scene.scene.urls, "embed")
    with httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
        with pytest.raises(RuntimeError, match="not open; use it inside `with"):
            http.get("/")
        with pool:
            assert http.get("/").status_code == 200
        with pytest.raises(RuntimeError, match="not open"):
            http.get("/")
    with pytest.raises(ValueError, match="choose one of"):
        SyncPool(scene.scene.urls, "embed", replay="maybe")


def test_the_wrong_transport_for_a_client_says_so(scene):
    with SyncPool(scene.scene.urls, "embed") as pool:
        request = httpx2.Request("POST", "http://embed/", content=_async_chunks())
        with pytest.raises(TypeError, match=r"httpx2.AsyncClient needs the transport of a Pool"):
            pool.send(request)


async def _async_chunks():
    yield b"x"


def test_an_interrupted_thread_stops_waiting_and_its_request_ends(scene):
    first = scene.scene.owners("user-1")[0]
    first.behaviour = hang

    def interrupt() -> None:
        scene.do(first.arrived.wait)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with calling_in_thread(scene, hedge=False) as (_, http):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            http.get("/", headers=KEYED)
        thread.join()
        scene.do(first.hung_up.wait)


def test_the_pool_on_asyncio(scene):
    first, second, _ = scene.scene.owners("user-1")

    async def main() -> None:
        async with (
            Pool(scene.scene.urls, "embed") as pool,
            httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
        ):
            assert (await http.get("/", headers=KEYED)).text == first.name
            first.behaviour = die
            assert (await http.get("/", headers=KEYED)).text == second.name
            with pytest.raises(RequestNotReplayableError):
                await http.post("/", headers={"Rumormill-Key": _key_of(pool, first.name)}, content=b"x")
            for _ in range(MIN_ANSWERS):
                await http.get("/", headers=KEYED)
            first.behaviour = hang
            async with asyncio.timeout(LIVENESS_LIMIT):
                assert (await http.get("/", headers={"Rumormill-Key": _key_of(pool, first.name)})).text != first.name
            answers = await asyncio.gather(*(http.get(f"/{n}") for n in range(50)))
            assert all(response.status_code == 200 for response in answers)
            known = pool.topology
            scene.do(scene.scene.evict, first.name)
            assert len((await pool.changed(known)).workers) == 2

    asyncio.run(main())


def test_a_pause_of_our_own_is_not_held_against_the_worker(scene):
    first = scene.scene.owners("user-1")[0]
    arrived, released = trio.Event(), trio.Event()

    async def answer_when_released(exchange: Exchange) -> None:
        arrived.set()
        await released.wait()
        await exchange.answer()

    async def main() -> list[str]:
        async with (
            Pool(scene.scene.urls, "embed") as pool,
            httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
        ):
            for _ in range(MIN_ANSWERS):
                await http.get("/", headers=KEYED)
            first.behaviour = answer_when_released
            asking = asyncio.create_task(http.get("/", headers=KEYED))
            await asyncio.to_thread(scene.do, arrived.wait)
            # This blocks the loop until long after the hedge was due. By then the answer waits in the socket.
            scene.do(released.set)
            scene.do(trio.sleep, 0.2)
            return [attempt.worker.name for attempt in (await asking).extensions["rumormill_attempts"]]

    assert asyncio.run(main()) == [first.name]


def _key_of(pool: Pool, name: str) -> str:
    """A key that this worker owns. Its breaker is closed first."""
    selector = pool._require_open().upstreams.selector
    (worker,) = (worker for worker in pool.workers if worker.name == name)
    selector.stats(worker).breaker.close(0.0)
    return next(f"k{i}" for i in range(1000) if pool.owners(f"k{i}", 1)[0].name == name)


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_a_stream_left_early_on_asyncio_leaves_nothing_behind(scene, content_type):
    first = scene.scene.owners("user-1")[0]
    first.behaviour = partial(three_events, content_type=content_type)

    async def main() -> None:
        async with (
            Pool(scene.scene.urls, "embed") as pool,
            httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
        ):
            async with http.stream("GET", "/", headers=KEYED) as response:
                async for _ in response.aiter_bytes():
                    break
            (worker,) = (worker for worker in pool.workers if worker.name == first.name)
            assert pool._require_open().upstreams.selector.stats(worker).in_flight == 0

    asyncio.run(main())
    gc.collect()


def test_an_error_in_an_asyncio_callers_block_is_raised_as_it_is(scene):
    async def main() -> None:
        async with Pool(scene.scene.urls, "embed"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_cancelling_an_asyncio_callers_block_is_no_error(scene):
    first = scene.scene.owners("user-1")[0]
    first.behaviour = hang

    async def ask() -> None:
        async with (
            Pool(scene.scene.urls, "embed", hedge=False) as pool,
            httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http,
        ):
            await http.get("/", headers=KEYED)

    async def main() -> None:
        task = asyncio.create_task(ask())
        await asyncio.to_thread(scene.do, first.arrived.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
