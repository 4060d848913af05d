"""What becomes of bodies: answers that break off, streams, and bodies of requests that can be read once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
import trio
from callers import KEYED, calling
from stage import Exchange, die, hang, stage

from rumormill.client import (
    RequestNotReplayableError,
    ResponseInterruptedError,
)


async def test_a_death_in_mid_body_is_replayed_where_the_length_of_the_answer_is_known():
    async def die_halfway(exchange: Exchange) -> None:
        await exchange.begin("application/json", 1000)
        await exchange.part(b'{"half":')
        await exchange.die()

    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = die_halfway
        assert (await http.post("/", content=b"x", headers=KEYED)).text == second.name


async def test_chunked_json_is_replayed_until_its_first_byte_and_then_passes_as_it_comes():
    more = trio.Event()

    async def die_at_once(exchange: Exchange) -> None:
        await exchange.begin("application/json")
        await exchange.die()

    async def begin_and_die(exchange: Exchange) -> None:
        await exchange.begin("application/json")
        await exchange.part(b"[1,")
        await more.wait()
        await exchange.die()

    async with stage() as scene, calling(scene) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour, second.behaviour = die_at_once, begin_and_die
        async with http.stream("GET", "/", headers=KEYED) as response:
            assert response.extensions["rumormill_worker"].name == second.name
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"[1,"
            more.set()
            with pytest.raises(ResponseInterruptedError, match=f"{second.name}.*in the middle of its answer"):
                await anext(chunks)


async def test_chunked_json_is_read_whole_for_a_caller_that_does_not_stream():
    async def in_parts(exchange: Exchange) -> None:
        await exchange.begin("application/json")
        if exchange.seen.target != "/empty":
            await exchange.part(b"[1,")
            await exchange.part(b"2]")
        await exchange.end()

    async with stage(workers=1) as scene, calling(scene) as (pool, http):
        scene.workers["w0"].behaviour = in_parts
        assert (await http.get("/")).json() == [1, 2]
        assert (await http.get("/empty")).content == b""
        assert pool._require_open().upstreams.selector.stats(pool.workers[0]).in_flight == 0


async def test_a_stream_passes_as_it_comes_and_ends_with_an_error_when_its_worker_dies():
    more = trio.Event()

    async def stream(exchange: Exchange) -> None:
        await exchange.begin("text/event-stream")
        await exchange.part(b"data: 1\n\n")
        await more.wait()
        await exchange.part(b"data: 2\n\n")
        await exchange.die()

    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first = scene.owners("user-1")[0]
        first.behaviour = stream
        async with http.stream("POST", "/", headers=KEYED) as response:
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"data: 1\n\n"
            more.set()
            assert await anext(chunks) == b"data: 2\n\n"
            with pytest.raises(ResponseInterruptedError, match=f"{first.name}.*in the middle of its answer"):
                await anext(chunks)


async def test_a_stream_from_a_worker_that_froze_with_its_sidecar_ends_when_it_is_evicted():
    async def stream(exchange: Exchange) -> None:
        await exchange.begin("text/event-stream")
        await exchange.part(b"data: 1\n\n")
        await exchange.hang()

    async with stage() as scene, calling(scene) as (_, http):
        first = scene.owners("user-1")[0]
        first.behaviour = stream
        async with http.stream("GET", "/", headers=KEYED, timeout=None) as response:
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"data: 1\n\n"
            first.behaviour = hang
            scene.evict(first.name)
            with pytest.raises(ResponseInterruptedError, match="was evicted or left"):
                await anext(chunks)


async def test_a_stream_may_be_read_to_its_end():
    async def stream(exchange: Exchange) -> None:
        await exchange.begin("text/event-stream")
        for _ in range(3):
            await exchange.part(b"data: x\n\n")
        await exchange.end()

    async with stage(workers=1) as scene, calling(scene) as (pool, http):
        scene.workers["w0"].behaviour = stream
        assert (await http.get("/")).text == "data: x\n\n" * 3
        with pool.acquire() as worker:
            assert pool._require_open().upstreams.selector.stats(worker).in_flight == 1


async def test_a_one_shot_body_is_not_replayed_but_may_still_move_on_unsent():
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 2**20

    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first, second, third = scene.owners("user-1")
        first.kill()
        second.behaviour = die
        with pytest.raises(RequestNotReplayableError, match="stream that is too long to keep"):
            await http.post("/", content=chunks(), headers=KEYED)
        assert not third.seen
        second.behaviour = first.behaviour
        assert (await http.post("/", content=chunks(), headers={"Rumormill-Key": "k"})).status_code == 200


async def test_a_short_stream_is_kept_and_replayed():
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with stage() as scene, calling(scene, replay="always") as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = die
        assert (await http.post("/", content=chunks(), headers=KEYED)).text == second.name
        assert second.seen[0].body == b"one two"


async def test_an_error_out_of_the_callers_own_body_goes_back_to_the_caller():
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("mine")

    async with stage() as scene, calling(scene) as (_, http):
        with pytest.raises(KeyError, match="mine"):
            await http.post("/", content=broken(), headers=KEYED)
        with pytest.raises(httpx2.LocalProtocolError, match="Illegal header"):
            await http.get("/", headers=KEYED | {"X-Bad": "a\x00b"})
    async with stage(workers=1) as scene, calling(scene) as (_, http):
        with pytest.raises(httpx2.LocalProtocolError, match="Illegal header"):
            await http.get("/", headers={"X-Bad": "a\x00b"})
        assert not scene.workers["w0"].seen
