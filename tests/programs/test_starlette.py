"""The middlewares around an app of Starlette, with its streams, background tasks, thread pool and own middlewares."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import pytest
from asgi_caller import call
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rumormill.worker import Idempotency, current_claim

KEY = {"Idempotency-Key": "one"}
runs: list[str] = []


async def charge(request: Request) -> JSONResponse:
    runs.append("charge")
    claim = current_claim()
    assert claim is not None
    return JSONResponse({"got": await request.json(), "attempt": claim.attempt}, background=BackgroundTask(after))


async def after() -> None:
    await anyio.sleep(0.01)
    runs.append("after")


def in_a_thread(request: Request) -> JSONResponse:
    runs.append("thread")
    time.sleep(0.01)
    claim = current_claim()
    return JSONResponse({"attempt": claim and claim.attempt})


async def stream(request: Request) -> StreamingResponse:
    async def words() -> AsyncIterator[str]:
        for word in ("one ", "two ", "three"):
            runs.append(word)
            await anyio.sleep(0.01)
            yield word

    return StreamingResponse(words(), media_type="text/event-stream")


async def teapot(request: Request) -> JSONResponse:
    runs.append("teapot")
    raise HTTPException(418, "short and stout")


async def bug(request: Request) -> JSONResponse:
    runs.append("bug")
    raise ZeroDivisionError


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Stamp"] = "yes"
        return response


def starlette() -> Starlette:
    runs.clear()
    endpoints = (charge, in_a_thread, stream, teapot, bug)
    routes = [Route(f"/{one.__name__}", one, methods=["POST"]) for one in endpoints]
    return Starlette(routes=routes, middleware=[Middleware(Idempotency, required=True), Middleware(Stamp)])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("path", "status", "body", "ran"),
    [
        ("/charge", 200, b'{"got":5,"attempt":1}', ["charge", "after"]),
        ("/in_a_thread", 200, b'{"attempt":1}', ["thread"]),
        ("/stream", 200, b"one two three", ["one ", "two ", "three"]),
        ("/teapot", 418, b"short and stout", ["teapot"]),
    ],
)
def test_each_kind_of_answer_is_kept(backend: str, path: str, status: int, body: bytes, ran: list[str]) -> None:
    async def story() -> None:
        app = starlette()
        first, again = await call(app, b"5", path=path, headers=KEY), await call(app, b"5", path=path, headers=KEY)
        assert (first.status, first.body) == (again.status, again.body) == (status, body)
        assert again.headers["idempotency-replayed"] == "true"
        assert first.headers["x-stamp"] == again.headers["x-stamp"] == "yes"
        assert runs == ran

    anyio.run(story, backend=backend)


def test_a_bug_is_answered_by_starlette_and_not_run_again() -> None:
    async def story() -> None:
        app = starlette()
        with pytest.raises(ZeroDivisionError):  # Starlette answers 500 and raises, so that the server can log it
            await call(app, b"5", path="/bug", headers=KEY)
        again = await call(app, b"5", path="/bug", headers=KEY)
        assert again.problem["type"] == "urn:rumormill:failed"
        assert runs == ["bug"]

    anyio.run(story)


def test_a_caller_that_hangs_up_in_a_stream_finds_all_of_it() -> None:
    async def story() -> None:
        app = starlette()
        await call(app, b"5", path="/stream", headers=KEY, hang_up_after=2)
        again = await call(app, b"5", path="/stream", headers=KEY)
        assert again.body == b"one two three"
        assert len(runs) == 3

    anyio.run(story)
