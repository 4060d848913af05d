"""The option `classify`: answers that are judged by more than their status, in both kinds of pool."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx2
import pytest
from callers import KEYED, calling, calling_in_thread, names
from stage import Behaviour, Exchange, hang, stage, stage_in_thread, until_true

from rumormill.client import AnswerVerdict, Figures, Pool, ResponseView, StaleAnswer, SyncPool
from rumormill.client.rules.bodies import BUFFER_LIMIT
from rumormill.client.rules.messages import WorkerAnswer
from rumormill.client.selection.breaker import FAILURE_THRESHOLD

ERROR = {"error": {"message": "CUDA out of memory"}}


def error_inside(response: ResponseView) -> AnswerVerdict | None:
    """An OpenAI-compatible server that answers 200 with {"error": ...}."""
    if response.status == 200 and response.body is not None and "json" in response.headers.get("content-type", ""):
        found = json.loads(response.body)
        if isinstance(found, dict) and "error" in found:
            return AnswerVerdict.FAILED
    return None


def always(verdict: AnswerVerdict | None) -> Any:
    return lambda _: verdict


def saying(content: object, **headers: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(content).encode(), "application/json", **headers)

    return behave


async def test_an_error_inside_a_200_is_asked_elsewhere_if_the_request_may_be_sent_again():
    async with stage() as scene, calling(scene, replay="always", classify=error_inside) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = saying(ERROR)
        response = await http.post("/", content=b"x", headers=KEYED)
        assert response.text == second.name
        assert names(response) == [first.name, second.name]
        failure = response.extensions["rumormill_attempts"][0].failure
        assert (failure.what, failure.verdict) == ("answered 200, classified as FAILED", AnswerVerdict.FAILED)


async def test_the_caller_gets_the_error_inside_with_the_default_replay_until_the_breaker_opens():
    async with stage() as scene, calling(scene, classify=error_inside) as (pool, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = saying(ERROR)
        for _ in range(FAILURE_THRESHOLD):
            assert (await http.post("/", content=b"x", headers=KEYED)).json() == ERROR
        assert (await http.post("/", content=b"x", headers=KEYED)).text == second.name
        sick = next(worker for worker in pool.workers if worker.name == first.name)
        assert not pool._require_open().upstreams.selector.stats(sick).breaker.is_closed


def test_threads_get_the_same():
    with stage_in_thread() as scene:
        first, second, _ = scene.scene.owners("user-1")
        first.behaviour = saying(ERROR)
        with calling_in_thread(scene, replay="always", classify=error_inside) as (_, http):
            assert names(http.post("/", content=b"x", headers=KEYED)) == [first.name, second.name]
        with calling_in_thread(scene, classify=error_inside) as (_, http):
            for _ in range(FAILURE_THRESHOLD):
                assert http.post("/", content=b"x", headers=KEYED).json() == ERROR
            assert http.post("/", content=b"x", headers=KEYED).text == second.name


@pytest.mark.parametrize(
    ("verdict", "asked", "counts"),
    [
        (AnswerVerdict.ANSWER, 1, False),
        (None, 1, False),
        (AnswerVerdict.FAILED, 1, True),
        (AnswerVerdict.REFUSED, 2, True),
        (AnswerVerdict.OVERLOADED, 2, False),
    ],
)
async def test_each_verdict_on_a_request_that_must_not_be_sent_again(verdict, asked, counts):
    def classify(response: ResponseView) -> AnswerVerdict | None:
        return verdict if response.headers.get("judge") else None

    async with stage() as scene, calling(scene, replay="never", classify=classify) as (pool, http):
        first = scene.owners("user-1")[0]
        first.behaviour = saying("no", Judge="yes")
        assert len(names(await http.post("/", content=b"x", headers=KEYED))) == asked
        selector = pool._require_open().upstreams.selector
        stats = next(selector.stats(worker) for worker in pool.workers if worker.name == first.name)
        assert stats.breaker.recent_failures(pool._require_open().clock()) == counts
        assert stats.in_flight == 0


async def test_a_500_that_is_an_answer_goes_to_the_caller():
    async with stage() as scene, calling(scene, replay="always", classify=always(AnswerVerdict.ANSWER)) as (_, http):
        first = scene.owners("user-1")[0]

        async def behave(exchange: Exchange) -> None:
            await exchange.answer(status=500)

        first.behaviour = behave
        assert names(await http.get("/", headers=KEYED)) == [first.name]


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
async def test_streams_and_chunked_answers_are_judged_by_their_head_only(content_type):
    bodies = []

    def classify(response: ResponseView) -> AnswerVerdict | None:
        bodies.append(response.body)
        return AnswerVerdict.FAILED if response.headers.get("x-sick") else None

    async def stream(exchange: Exchange) -> None:
        sick = {"X_Sick": "yes"} if exchange.seen.target == "/sick" else {}
        await exchange.begin(content_type, **sick)
        await exchange.part(b'{"error"')
        await exchange.part(b': "late"}')
        await exchange.end()

    async with stage() as scene, calling(scene, replay="always", classify=classify) as (_, http):
        first, second, _ = scene.owners("user-1")
        first.behaviour = stream
        assert (await http.post("/", content=b"x", headers=KEYED)).text == '{"error": "late"}'
        assert (await http.post("/sick", content=b"x", headers=KEYED)).text == second.name
        assert bodies == [None, None, second.name.encode()]


class HookError(Exception):
    """What a hook of these tests raises."""


def broken_hook(_: ResponseView) -> AnswerVerdict | None:
    raise HookError


async def test_the_exception_of_a_hook_reaches_the_caller_as_itself():
    async with stage() as scene, calling(scene, replay="always", classify=broken_hook) as (pool, http):
        with pytest.raises(HookError):
            await http.post("/", content=b"x", headers=KEYED)
        selector = pool._require_open().upstreams.selector
        assert [selector.stats(worker).in_flight for worker in pool.workers] == [0, 0, 0]
        assert sum(len(worker.seen) for worker in scene.workers.values()) == 1
        async with httpx2.AsyncClient(transport=pool.transport(fallbacks=[StaleAnswer()])) as other:
            with pytest.raises(HookError):
                await other.get("http://embed/")


async def test_the_exception_about_the_answer_of_a_hedge_reaches_the_caller_too():
    async with stage() as scene, calling(scene, replay="always", hedge_after=0.02, classify=broken_hook) as (_, http):
        scene.owners("user-1")[0].behaviour = hang
        with pytest.raises(HookError):
            await http.post("/", content=b"x", headers=KEYED)


def test_the_exception_reaches_a_thread_too():
    with (
        stage_in_thread() as scene,
        calling_in_thread(scene, classify=broken_hook) as (_, http),
        pytest.raises(HookError),
    ):
        http.get("/", headers=KEYED)


class Interrupt(BaseException):
    """As a signal raises it."""


async def test_an_interrupt_within_the_hook_leaves_nothing_in_flight():
    def interrupted(_: ResponseView) -> AnswerVerdict | None:
        raise Interrupt

    async with stage() as scene, calling(scene, classify=interrupted) as (pool, http):
        with pytest.raises(Interrupt):
            await http.get("/", headers=KEYED)
        selector = pool._require_open().upstreams.selector
        assert [selector.stats(worker).in_flight for worker in pool.workers] == [0, 0, 0]


async def test_what_is_no_verdict_is_an_error():
    async with stage() as scene, calling(scene, classify=always("failed")) as (_, http):
        with pytest.raises(TypeError, match="return an AnswerVerdict, or None"):
            await http.get("/", headers=KEYED)


async def an_async_hook(_: ResponseView) -> None:
    return None


@pytest.mark.parametrize("pool", [Pool, SyncPool])
@pytest.mark.parametrize("hook", [an_async_hook, "FAILED"])
def test_a_hook_is_a_plain_function(pool, hook):
    with pytest.raises(ValueError, match="plain function"):
        pool("http://127.0.0.1:7380", "embed", classify=hook)


async def test_fallbacks_and_figures_heed_the_verdict():
    figures, stale = Figures("embed"), StaleAnswer()
    async with stage(workers=1) as scene, calling(scene, classify=error_inside) as (pool, _):
        worker = scene.workers["w0"]
        transport = figures.transport(pool.transport(fallbacks=[stale]))
        async with httpx2.AsyncClient(transport=transport, base_url="http://embed") as http:
            worker.behaviour = saying({"good": 1})
            assert (await http.get("/")).json() == {"good": 1}
            worker.behaviour = saying(ERROR)
            response = await http.get("/")
            assert response.json() == {"good": 1}, "the error inside was not kept as a good answer"
            assert response.extensions["rumormill_fallback"].kind == "stale"
        await until_true(lambda: len(worker.seen) >= 2)
    async with stage(workers=1) as scene, calling(scene, classify=error_inside) as (pool, _):
        scene.workers["w0"].behaviour = saying(ERROR)
        async with httpx2.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed") as http:
            await http.post("/", content=b"x")
        (release,) = figures.figures().values()
        assert release.errors == 1


def view(body: bytes, coding: str) -> ResponseView:
    headers = [(b"Content-Encoding", coding.encode())]
    return ResponseView(WorkerAnswer(200, headers, httpx2.ByteStream(body), {}))


# The bodies are in the tests' names, and all processes that share the tests must give them the same: no time stamp.
@pytest.mark.parametrize(
    ("body", "coding", "read"),
    [
        (b"plain", "identity", b"plain"),
        (gzip.compress(b"{}", mtime=0), "gzip", b"{}"),
        (zlib.compress(b"{}"), "Deflate", b"{}"),
        (gzip.compress(b"{}", mtime=0)[:-1], "gzip", None),
        (b"no gzip", "gzip", None),
        (gzip.compress(b"0" * (BUFFER_LIMIT + 1), mtime=0), "gzip", None),
        (b"?", "br", None),
        (b"?", "gzip, gzip", None),
    ],
)
def test_the_view_undoes_gzip_within_bounds(body, coding, read):
    assert view(body, coding).body == read
