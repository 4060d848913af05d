"""Opening and closing from any task, on trio and asyncio, and the errors raised meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import httpx2
import pytest
from limits import LIVENESS_LIMIT
from stage import StageInThread, stage_in_thread

from rumormill.client import Pool, SyncPool

BACKENDS = ["asyncio", "trio"]
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def scene() -> Iterator[StageInThread]:
    with stage_in_thread() as scene:
        yield scene


@pytest.fixture
async def opened(scene) -> AsyncIterator[Pool]:
    """A fixture is set up in one task and torn down in another."""
    async with Pool(scene.scene.urls, "embed") as pool:
        yield pool


async def asked(pool: Pool) -> str:
    async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
        return (await http.get("/")).text


class Trouble(random.Random):
    """A random source that raises once it is armed. The background task draws its pauses from it, and crashes."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(1)
        self.armed = False
        self.error = error

    def uniform(self, a: float, b: float) -> float:
        if self.armed:
            self.armed = False
            if self.error is not None:
                raise self.error
            signal.raise_signal(signal.SIGINT)
        return super().uniform(a, b)


async def test_a_pool_from_a_fixture_works(opened):
    assert await asked(opened) in ("w0", "w1", "w2")


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_task_opens_the_pool_and_another_closes_it(scene, backend):
    async def main() -> None:
        pool = Pool(scene.scene.urls, "embed")
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.open)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(asked, pool)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.__aexit__, None, None, None)
            await pool.aclose()
            with pytest.raises(RuntimeError, match="not open"):
                await asked(pool)

    anyio.run(main, backend=backend)


def test_the_tasks_of_an_asyncio_lifespan_need_not_be_nested(scene):
    """As ASGI servers do: one task for each phase, in a cancel scope that ends with it."""

    async def within_a_limit(step):
        async with asyncio.timeout(LIVENESS_LIMIT):
            return await step

    async def main() -> None:
        first, second = Pool(scene.scene.urls, "embed"), Pool(scene.scene.urls, "embed")
        await asyncio.create_task(within_a_limit(first.open()))
        await asyncio.create_task(within_a_limit(second.open()))
        await asyncio.create_task(within_a_limit(first.aclose()))
        assert await asked(second) in ("w0", "w1", "w2")
        await asyncio.create_task(within_a_limit(second.aclose()))

    asyncio.run(main())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_the_block_is_raised_as_it_is(scene, backend):
    async def main(error: BaseException) -> None:
        async with Pool(scene.scene.urls, "embed"):
            raise error

    for error in (ZeroDivisionError(), ExceptionGroup("mine", [ValueError()]), SystemExit(3)):
        with pytest.raises(type(error)) as caught:
            anyio.run(main, error, backend=backend)
        assert caught.value is error


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crash_in_the_background_is_logged_told_to_callers_and_raised_at_the_end(backend, caplog):
    async def main() -> None:
        trouble = Trouble(ZeroDivisionError("no chance"))
        pool = await Pool(NOBODY, "embed", rng=trouble, patience=0).open()
        trouble.armed = True
        with anyio.fail_after(LIVENESS_LIMIT), pytest.raises(RuntimeError, match=r"crashed \(see the log\)"):
            await pool.changed(pool.topology)
        with pytest.raises(RuntimeError, match="crashed"):
            await asked(pool)
        with pytest.raises(ExceptionGroup) as caught:
            await pool.aclose()
        assert caught.group_contains(ZeroDivisionError)
        await pool.aclose()
        async with pool:
            assert pool.workers == ()

    with caplog.at_level(logging.ERROR):
        anyio.run(main, backend=backend)
    assert caplog.text.count("background task has crashed") == 1
    assert "no chance" in caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_blocks_own_error_takes_precedence_over_a_crash(backend):
    async def main() -> None:
        trouble = Trouble(ZeroDivisionError())
        async with Pool(NOBODY, "embed", rng=trouble, patience=0) as pool:
            trouble.armed = True
            with anyio.fail_after(LIVENESS_LIMIT), pytest.raises(RuntimeError):
                await pool.changed(pool.topology)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        anyio.run(main, backend=backend)


def test_threads_are_told_of_a_crash_too():
    trouble = Trouble(ZeroDivisionError())
    pool = SyncPool(NOBODY, "embed", rng=trouble, patience=0).open()
    trouble.armed = True
    with pytest.raises(RuntimeError, match="crashed"):
        pool.changed(pool.topology, timeout=LIVENESS_LIMIT)
    with pytest.raises(ExceptionGroup):
        pool.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_that_strikes_in_the_background_is_the_main_tasks(backend):
    left = []

    async def main() -> None:
        trouble = Trouble(None)
        try:
            async with Pool(NOBODY, "embed", rng=trouble, patience=0):
                trouble.armed = True
                await anyio.sleep(30)
        finally:
            left.append("in order")

    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend=backend)
    assert left == ["in order"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_opening_can_be_cancelled_and_tried_again(scene, backend):
    async def main(deaf: str) -> None:
        pool = Pool([deaf], "embed", patience=60)
        for _ in range(2):
            with anyio.move_on_after(0.05) as limit:
                await pool.open()
            assert limit.cancelled_caught
            with pytest.raises(RuntimeError, match="not open"):
                await asked(pool)

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        anyio.run(main, f"http://127.0.0.1:{deaf.getsockname()[1]}", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_that_ends_takes_its_pool_along(scene, backend):
    pool = Pool(scene.scene.urls, "embed")

    async def one_life() -> None:
        await pool.aclose()
        await pool.open()
        assert await asked(pool) in ("w0", "w1", "w2")
        with pytest.raises(RuntimeError, match="open already"):
            await pool.open()

    for _ in range(2):
        anyio.run(one_life, backend=backend)


def test_another_loop_cannot_close_a_pool_and_says_so(scene):
    async def closing(pool: Pool) -> None:
        with pytest.raises(RuntimeError, match="opened in another event loop; close it there"):
            await pool.aclose()

    async def main() -> None:
        async with Pool(scene.scene.urls, "embed") as pool:
            for backend in BACKENDS:
                await anyio.to_thread.run_sync(lambda backend=backend: anyio.run(closing, pool, backend=backend))

    asyncio.run(main())


def test_a_pool_of_threads_is_opened_and_closed_without_a_block(scene):
    pool = SyncPool(scene.scene.urls, "embed")
    for _ in range(2):
        pool.open()
        with pytest.raises(RuntimeError, match="open already"):
            pool.open()
        with httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            assert http.get("/").status_code == 200
        pool.close()
        pool.close()
        with pytest.raises(RuntimeError, match="not open"):
            pool.topology  # noqa: B018
