"""What callers get when no worker can serve, with real workers: the order, what may be sent again, and what says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
import trio
from limits import LIVENESS_LIMIT
from stage import Stage, answering, die, hang, stage, stage_in_thread

from rumormill.client import (
    DefaultAnswer,
    FallbackUsed,
    NoWorkersError,
    OtherService,
    Pool,
    RequestNotReplayableError,
    StaleAnswer,
    SyncPool,
)
from rumormill.client.keys import json_field
from rumormill.client.legacy_httpx import httpx_transport
from rumormill.client.transports.fallbacks import FALLBACK, AsyncFallback


class Light(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """A lighter model behind a transport of its own."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked: list[bytes] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return self.handle_request(request)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.content)
        return httpx2.Response(self.status, text="light")


@asynccontextmanager
async def falling_back(scene: Stage, *fallbacks: AsyncFallback, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with Pool(scene.urls, "embed", hedge=False) as pool:
        transport = pool.transport(fallbacks=fallbacks, **settings)
        async with httpx2.AsyncClient(transport=transport, base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            yield http


def fail_all(scene: Stage, status: int = 503) -> None:
    for worker in scene.workers.values():
        worker.behaviour = answering(status)


def used(response: httpx2.Response) -> FallbackUsed:
    found = response.extensions[FALLBACK]
    assert isinstance(found, FallbackUsed)
    return found


async def test_a_worker_s_answer_is_nobody_s_fallback() -> None:
    light = Light()
    async with stage() as scene, falling_back(scene, OtherService(light), DefaultAnswer(json={})) as http:
        response = await http.post("/", json={"a": 1})
        assert response.text in scene.workers
        assert FALLBACK not in response.extensions
        scene.workers["w0"].behaviour = answering(404)
        assert {(await http.get("/")).status_code for _ in range(20)} <= {200, 404}
    assert light.asked == []


async def test_the_first_that_has_an_answer_wins() -> None:
    broken, light = Light(500), Light()
    fallbacks = (
        StaleAnswer(),
        OtherService(broken, name="broken"),
        OtherService(light, name="light"),
        DefaultAnswer(json={}),
    )
    async with stage() as scene, falling_back(scene, *fallbacks) as http:
        fail_all(scene)
        response = await http.post("/", content=b"hello")
        assert response.text == "light"
        assert used(response) == FallbackUsed("other_service", "light", used(response).reason, status=503)
        assert "answered 503" in used(response).reason
    assert broken.asked == light.asked == [b"hello"]


async def test_a_stale_answer_has_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    async with stage() as scene, falling_back(scene, StaleAnswer(max_age=60.0)) as http:
        fresh = await http.post("/v1/embeddings?a=1", json={"input": "hello"})
        fail_all(scene)
        now += 42.5
        stale = await http.post("/v1/embeddings?a=1", json={"input": "hello"})
        assert (stale.status_code, stale.text) == (200, fresh.text)
        assert stale.headers["age"] == "42"
        assert stale.headers["content-type"] == fresh.headers["content-type"]
        assert (used(stale).kind, used(stale).age) == ("stale", 42.5)
        for other in ({"input": "bye"}, {"input": "hello", "user": "ada"}):
            assert (await http.post("/v1/embeddings?a=1", json=other)).status_code == 503
        assert (await http.post("/v1/embeddings", json={"input": "hello"})).status_code == 503
        other_caller = {"Authorization": "Bearer other"}
        refused = await http.post("/v1/embeddings?a=1", json={"input": "hello"}, headers=other_caller)
        assert refused.status_code == 503
        now += 20
        assert (await http.post("/v1/embeddings?a=1", json={"input": "hello"})).status_code == 503


async def test_what_says_no_store_is_not_kept() -> None:
    async with stage() as scene, falling_back(scene, StaleAnswer()) as http:
        for worker in scene.workers.values():
            worker.behaviour = answering(200, Cache_Control="no-store")
        await http.get("/secret")
        await http.get("/asked", headers={"Cache-Control": "no-store"})
        fail_all(scene)
        assert (await http.get("/secret")).status_code == 503
        assert (await http.get("/asked")).status_code == 503


async def test_stale_answers_have_a_bound_and_the_least_used_go_first() -> None:
    async with stage() as scene, falling_back(scene, StaleAnswer(max_bytes=4)) as http:
        for path in ("/1", "/2", "/3"):
            await http.get(path)  # an answer is the worker's name, two bytes
        fail_all(scene)
        assert [(await http.get(path)).status_code for path in ("/1", "/2", "/3")] == [503, 200, 200]


async def test_a_default_answers_when_every_worker_is_dead() -> None:
    default = DefaultAnswer(json={"labels": []}, status=203, headers={"X-Degraded": "yes"})
    async with stage() as scene, falling_back(scene, default) as http:
        for worker in scene.workers.values():
            worker.kill()
        response = await http.get("/")
        assert (response.status_code, response.json()) == (203, {"labels": []})
        assert response.headers["x-degraded"] == "yes"
        assert isinstance(used(response).error, NoWorkersError)


async def test_without_an_answer_the_caller_gets_what_the_pool_gave() -> None:
    async with stage() as scene, falling_back(scene, StaleAnswer(), OtherService(Light(503))) as http:
        fail_all(scene)
        response = await http.get("/")
        assert response.status_code == 503
        assert FALLBACK not in response.extensions
        for worker in scene.workers.values():
            worker.kill()
        with pytest.raises(NoWorkersError):
            await http.get("/")


@pytest.mark.parametrize(("replay", "asked"), [("idempotent", 0), ("always", 1)])
async def test_what_may_have_acted_goes_to_no_other_service(replay: str, asked: int) -> None:
    light = Light()
    fallbacks: Sequence[AsyncFallback] = (OtherService(light), DefaultAnswer(json="default"))
    async with stage() as scene, falling_back(scene, *fallbacks, replay=replay) as http:
        for worker in scene.workers.values():
            worker.behaviour = die
        response = await http.post("/", content=b"charge")
        assert used(response).kind == ("other_service" if asked else "default")
        if not asked:
            assert isinstance(used(response).error, RequestNotReplayableError)
    assert len(light.asked) == asked


async def test_a_failure_after_acting_goes_to_no_other_service_either() -> None:
    light = Light()
    async with stage() as scene, falling_back(scene, OtherService(light)) as http:
        fail_all(scene, 500)
        assert (await http.post("/", content=b"charge")).status_code == 500
        assert (await http.get("/")).text == "light"
        fail_all(scene, 429)
        assert (await http.post("/", content=b"charge")).text == "light"


async def test_after_the_caller_s_own_timeout_there_is_no_time_for_another_service() -> None:
    light = Light()
    async with stage() as scene, falling_back(scene, OtherService(light), DefaultAnswer(json=1)) as http:
        for worker in scene.workers.values():
            worker.behaviour = hang
        response = await http.get("/", timeout=0.2)
        assert isinstance(used(response).error, httpx2.TimeoutException)
    assert light.asked == []


async def test_a_body_that_is_a_stream_goes_to_no_other_service() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    light = Light()
    async with stage() as scene, falling_back(scene, OtherService(light)) as http:
        fail_all(scene)
        assert (await http.post("/", content=body())).status_code == 503
    assert light.asked == []


async def test_a_caller_that_gives_up_gets_no_fallback() -> None:
    async with stage() as scene, falling_back(scene, DefaultAnswer(json=1)) as http:
        for worker in scene.workers.values():
            worker.behaviour = hang
        with trio.move_on_after(0.2) as scope:
            await http.get("/")
        assert scope.cancelled_caught


def test_in_threads_the_rules_are_the_same() -> None:
    stale, light = StaleAnswer(), Light()
    with stage_in_thread() as staged, SyncPool(staged.scene.urls, "embed") as pool:
        transport = pool.transport(fallbacks=[stale, OtherService(light, name="light")])
        with httpx2.Client(transport=transport, base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            fresh = http.post("/", content=b"known")
            staged.do(fail_all, staged.scene)
            known, unknown = http.post("/", content=b"known"), http.post("/", content=b"unknown")
    assert fresh.text == known.text
    assert "age" in known.headers
    assert (used(known).kind, used(unknown).kind, unknown.text) == ("stale", "other_service", "light")


async def test_a_fallback_of_the_wrong_kind_is_told() -> None:
    pool = Pool("http://127.0.0.1:1", "embed")
    sync_pool = SyncPool("http://127.0.0.1:1", "embed")
    with pytest.raises(TypeError, match=r"it needs httpx2\.AsyncBaseTransport"):
        pool.transport(fallbacks=[OtherService(sync_pool.transport())])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"it needs httpx2\.BaseTransport"):
        sync_pool.transport(fallbacks=[OtherService(pool.transport())])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="give OtherService"):
        pool.transport(fallbacks=["light"])  # type: ignore[list-item]


# Keys of the transport: the functions themselves are in test_keys.py.


async def test_a_transport_reads_the_key_of_each_request() -> None:
    async with stage() as scene, falling_back(scene, key=json_field("user")) as http:
        for number in range(10):
            response = await http.post("/", json={"user": f"u{number}", "text": "hello"})
            assert response.text == scene.owners(f"u{number}")[0].name
        named = await http.post("/", json={"user": "u1"}, headers={"Rumormill-Key": "mine"})
        assert named.text == scene.owners("mine")[0].name
        assert {(await http.post("/", json={"text": "hello"})).text for _ in range(100)} == set(scene.workers)


def test_clients_of_httpx_have_keys_and_fallbacks_too() -> None:
    with stage_in_thread() as staged, SyncPool(staged.scene.urls, "embed") as pool:
        transport = httpx_transport(pool.transport(key=json_field("user"), fallbacks=[StaleAnswer()]))
        with httpx.Client(transport=transport, base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            fresh = http.post("/", json={"user": "ada"})
            staged.do(fail_all, staged.scene)
            stale = http.post("/", json={"user": "ada"})
    assert fresh.text == stale.text == staged.scene.owners("ada")[0].name
    assert stale.extensions[FALLBACK].kind == "stale"


def test_a_stream_that_is_iterated_twice_is_asked_for_by_nobody() -> None:
    """Keys and fallbacks read only bodies in memory."""

    def body() -> Iterator[bytes]:
        yield b'{"user": "ada"}'

    with stage_in_thread() as staged, SyncPool(staged.scene.urls, "embed") as pool:
        transport = pool.transport(key=json_field("user"), fallbacks=[StaleAnswer()])
        with httpx2.Client(transport=transport, base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            assert http.post("/", content=body()).status_code == 200
    assert [seen.body for worker in staged.scene.workers.values() for seen in worker.seen] == [b'{"user": "ada"}']
