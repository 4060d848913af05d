"""Answers that depend on nothing but the request are computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import trio
from asgi_caller import Answer, call

from rumormill.worker import AnswerCache, MemoryStore, StoreUnavailableError
from rumormill.worker.asgi import Receive, Scope, Send


@dataclass
class Model:
    """Embeds what it gets, slowly."""

    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    stream: bool = False
    runs: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        self.runs += 1
        await anyio.sleep(1)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"embedded " + body, "more_body": self.stream})
        if self.stream:
            await send({"type": "http.response.body", "body": b""})


async def embed(cache: AnswerCache, text: bytes = b"hello", **how: Any) -> Answer:
    return await call(cache, text, **{"path": "/v1/embeddings", **how})


def cached(model: Model, **how: Any) -> AnswerCache:
    return AnswerCache(model, paths=["/v1/embeddings"], **how)


async def test_an_equal_request_gets_the_kept_answer_and_its_age(autojump_clock, monkeypatch) -> None:
    monkeypatch.setattr("time.time", trio.current_time)
    model = Model()
    cache = cached(model, ttl=60.0)
    first = await embed(cache)
    await trio.sleep(10)
    again = await embed(cache)
    assert first.body == again.body == b"embedded hello"
    assert (first.headers["cache-status"], "age" in first.headers) == ("rumormill; fwd=miss", False)
    assert again.headers["age"] == "10"
    assert again.headers["cache-status"] == "rumormill; hit; ttl=50"
    await trio.sleep(51)
    await embed(cache)
    assert model.runs == 2


@pytest.mark.parametrize(
    "how",
    [
        {"text": b"bye"},
        {"query": b"v=2"},
        {"headers": {"Authorization": "Bearer other"}},
        {"headers": {"Content-Type": "text/plain"}},
        {"method": "GET"},
        {"path": "/v1/other"},
        {"headers": {"Cache-Control": "no-store"}},
    ],
)
async def test_any_other_request_is_run(how: dict[str, Any], autojump_clock) -> None:
    model = Model()
    cache = cached(model)
    await embed(cache)
    await embed(cache, **how)
    assert model.runs == 2


async def test_equal_requests_at_once_are_run_once(autojump_clock) -> None:
    model = Model()
    cache = cached(model)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(embed, cache)
    assert model.runs == 1


@pytest.mark.parametrize(
    "model",
    [
        Model(status=500),
        Model(stream=True),
        Model(headers=[(b"Cache-Control", b"private, no-store")]),
        Model(headers=[(b"Set-Cookie", b"a=b")]),
    ],
)
async def test_what_may_not_be_kept_is_run_for_each_at_once_and_not_one_after_the_other(
    model: Model, autojump_clock
) -> None:
    cache = cached(model)
    began = trio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(embed, cache)
    assert model.runs == 5
    assert trio.current_time() - began == pytest.approx(2.0)


async def test_an_answer_beyond_the_limit_is_passed_on(autojump_clock) -> None:
    model = Model()
    cache = cached(model, max_answer=5)
    assert [(await embed(cache)).body for _ in range(2)] == [b"embedded hello"] * 2
    assert model.runs == 2
    assert (await embed(cached(model, max_body=3))).status == 413


async def test_a_store_that_fails_is_left_out(autojump_clock) -> None:
    class Away(MemoryStore):
        async def get(self, key: bytes) -> Any:
            raise StoreUnavailableError("away")

        async def put(self, key: bytes, value: bytes, ttl: float) -> None:
            raise StoreUnavailableError("away")

    model = Model()
    assert (await embed(cached(model, store=Away()))).body == b"embedded hello"


async def test_a_stranger_s_bytes_in_the_store_are_no_answer(autojump_clock) -> None:
    class Odd(MemoryStore):
        async def get(self, key: bytes) -> Any:
            return b"\xff\x00 not ours", 10.0

    model = Model()
    assert (await embed(cached(model, store=Odd()))).status == 200
    assert model.runs == 1


async def test_one_that_is_cancelled_does_not_keep_the_others_waiting(autojump_clock) -> None:
    model = Model()
    cache = cached(model)
    began = trio.current_time()

    async def lead_and_die() -> None:
        with trio.move_on_after(0.5):
            await embed(cache)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lead_and_die)
        await trio.sleep(0.1)
        answer = await embed(cache)
    assert answer.body == b"embedded hello"
    assert model.runs == 2
    assert trio.current_time() - began == pytest.approx(1.5)
