"""Clients of httpx, the predecessor of httpx2, on the same pools; and clients on a transport that is not for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import httpx2
import pytest
import trio
from callers import KEYED
from limits import LIVENESS_LIMIT
from stage import Exchange, answering, die, hang, stage, stage_in_thread

from rumormill.client import (
    Figures,
    Pool,
    RequestNotReplayableError,
    ResponseInterruptedError,
    SyncPool,
)
from rumormill.client.legacy_httpx import httpx_transport


async def part_and_death(exchange: Exchange) -> None:
    await exchange.begin("text/event-stream")
    await exchange.part(b"data: 0\n\n")
    await exchange.die()


async def test_an_async_client_of_httpx_gets_what_one_of_httpx2_gets():
    async with stage() as scene, Pool(scene.urls, "embed") as pool:
        first, second, third = scene.owners("user-1")
        transport = httpx_transport(pool.transport())
        async with httpx.AsyncClient(
            transport=transport, base_url="http://embed", headers=KEYED, timeout=LIVENESS_LIMIT
        ) as http:
            response = await http.put("/a%2Fb?q=%41", content=b"body")
            assert response.text == response.extensions["rumormill_worker"].name == first.name
            assert (first.seen[-1].target, first.seen[-1].body) == ("/a%2Fb?q=%41", b"body")

            first.behaviour = die
            with pytest.raises(RequestNotReplayableError, match="POST is not idempotent") as caught:
                await http.post("/", content=b"x")
            assert isinstance(caught.value, httpx.TransportError)
            assert isinstance(caught.value, httpx2.TransportError)
            assert caught.value.worker.name == caught.value.attempts[0].worker.name
            assert caught.value.request.method == "POST"

            second.behaviour = die
            assert (await http.get("/")).text == third.name

            first.behaviour = second.behaviour = third.behaviour = answering(503)
            assert (await http.get("/")).status_code == 503


async def test_a_stream_a_timeout_and_figures_work_with_httpx_too():
    async with stage(workers=1) as scene, Pool(scene.urls, "embed", hedge=False) as pool:
        figures = Figures("embed")
        transport = httpx_transport(figures.transport(pool.transport()))
        worker = scene.workers["w0"]
        async with httpx.AsyncClient(transport=transport, base_url="http://embed", timeout=LIVENESS_LIMIT) as http:

            async def body() -> AsyncIterator[bytes]:
                yield b"one "
                yield b"two"

            assert (await http.post("/", content=body())).status_code == 200
            assert worker.seen[-1].body == b"one two"
            assert figures.figures()["v1"].requests == 1

            worker.behaviour = part_and_death
            async with http.stream("GET", "/") as response:
                chunks = response.aiter_bytes()
                assert await anext(chunks) == b"data: 0\n\n"
                with pytest.raises(ResponseInterruptedError) as caught:
                    await anext(chunks)
            assert isinstance(caught.value, httpx.TransportError)

            worker.behaviour = hang
            with pytest.raises(httpx.ReadTimeout) as timeout:
                await http.get("/", timeout=httpx.Timeout(None, read=0.05))
            assert isinstance(timeout.value, httpx2.ReadTimeout)


def test_a_synchronous_client_of_httpx_too():
    with stage_in_thread() as scene, SyncPool(scene.scene.urls, "embed") as pool:
        first, second, _ = scene.scene.owners("user-1")
        with httpx.Client(
            transport=httpx_transport(pool.transport()), base_url="http://embed", headers=KEYED, timeout=LIVENESS_LIMIT
        ) as http:
            first.behaviour = die
            assert http.put("/", content=iter([b"a", b"b"])).text == second.name
            assert second.seen[-1].body == b"ab"
            second.behaviour = part_and_death
            with http.stream("GET", "/") as response, pytest.raises(httpx.TransportError) as caught:
                assert list(response.iter_bytes()) == []
            assert isinstance(caught.value, ResponseInterruptedError)


async def test_a_connection_error_of_httpx_counts_against_an_acquired_worker():
    async with stage() as scene, Pool(scene.urls, "embed") as pool:
        first = pool.owners("user-1", 1)[0]
        with pytest.raises(httpx.ConnectError), pool.acquire("user-1"):
            raise httpx.ConnectError("refused")
        with pool.acquire("user-1") as worker:
            assert worker != first
        with pytest.raises(ZeroDivisionError), pool.acquire("user-1") as again:
            raise ZeroDivisionError
        assert again == worker


async def test_a_client_of_the_wrong_kind_or_library_is_told_the_right_one():
    pool, sync_pool = Pool("http://127.0.0.1:1", "embed"), SyncPool("http://127.0.0.1:1", "embed")
    for_httpx2 = r"clients of httpx2, and the client is of httpx, .*httpx_transport\(pool.transport\(\)\)"
    for transport, hint in (
        (sync_pool.transport(), "of a SyncPool, for httpx2.Client; httpx2.AsyncClient takes the transport of a Pool"),
        (httpx_transport(pool.transport()), r"for clients of httpx, .* httpx2, which takes pool.transport\(\)"),
        (httpx_transport(sync_pool.transport()), "SyncPool, for httpx.Client; httpx.AsyncClient takes .* of a Pool"),
    ):
        with pytest.raises(TypeError, match=hint):
            await httpx2.AsyncClient(transport=transport).get("http://embed/")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=for_httpx2):
        await httpx.AsyncClient(transport=pool.transport()).get("http://embed/")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=for_httpx2):
        httpx.Client(transport=sync_pool.transport()).get("http://embed/")  # type: ignore[arg-type]
    of_a_pool = "of a Pool, for httpx2.AsyncClient; httpx2.Client takes the transport of a SyncPool"
    with pytest.raises(TypeError, match=of_a_pool):
        httpx2.Client(transport=pool.transport()).get("http://embed/")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=of_a_pool), httpx2.Client(transport=pool.transport()):  # type: ignore[arg-type]
        pass
    with pytest.raises(TypeError, match="of a SyncPool, for"):
        async with httpx2.AsyncClient(transport=sync_pool.transport()):  # type: ignore[arg-type]
            pass
    with pytest.raises(TypeError, match=r"a Pool is no transport of httpx2; give .* pool.transport\(\)"):
        httpx_transport(pool)  # type: ignore[call-overload]
    await trio.lowlevel.checkpoint()


def test_the_client_needs_no_httpx_and_says_what_does() -> None:
    program = """
import sys
sys.modules["httpx"] = sys.modules["httpcore"] = None  # as if they were not installed
import rumormill.client, rumormill.cli.http_client, rumormill.cli.gates, rumormill.cli.demo.caller
try:
    import rumormill.client.legacy_httpx
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'rumormill[httpx]'" in said
