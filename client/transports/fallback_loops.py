"""Takes the steps of fallbacks.py, for tasks and for threads, in one loop.

The loop is a coroutine. For threads it is given steps that never wait, so it runs to its end at once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import anyio
import httpx2

from rumormill.client.transports.fallbacks import (
    AskOther,
    AskPool,
    AsyncFallback,
    CloseAnswer,
    Outcome,
    Steps,
    SyncFallback,
    Transport,
    serve,
)


async def send_with_fallbacks(
    send: Callable[[httpx2.Request], Awaitable[httpx2.Response]],
    request: httpx2.Request,
    fallbacks: Sequence[AsyncFallback],
    *,
    replayable: bool,
) -> httpx2.Response:
    """`send` asks the pool."""

    async def take(step: AskPool | AskOther[httpx2.AsyncBaseTransport] | CloseAnswer) -> Outcome:
        match step:
            case AskPool():
                return await send(request)
            case AskOther(transport):
                return await transport.handle_async_request(request)
            case CloseAnswer(response):
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        return None

    return await _take_steps(serve(request, fallbacks, time.monotonic, replayable=replayable), take)


def sync_send_with_fallbacks(
    send: Callable[[httpx2.Request], httpx2.Response],
    request: httpx2.Request,
    fallbacks: Sequence[SyncFallback],
    *,
    replayable: bool,
) -> httpx2.Response:
    """`send` asks the pool."""

    async def take(step: AskPool | AskOther[httpx2.BaseTransport] | CloseAnswer) -> Outcome:
        match step:
            case AskPool():
                return send(request)
            case AskOther(transport):
                return transport.handle_request(request)
            case CloseAnswer(response):
                response.close()
        return None

    return _without_waiting(_take_steps(serve(request, fallbacks, time.monotonic, replayable=replayable), take))


async def _take_steps(
    steps: Steps[Transport],
    take: Callable[[AskPool | AskOther[Transport] | CloseAnswer], Awaitable[Outcome]],
) -> httpx2.Response:
    outcome: Outcome = None
    try:
        step = next(steps)
        while True:
            try:
                outcome = await take(step)
            except Exception as error:
                outcome = error
            step = steps.send(outcome)
    except StopIteration as end:
        found: httpx2.Response = end.value
        return found
    except BaseException:
        if isinstance(outcome, httpx2.Response):
            await take(CloseAnswer(outcome))
        raise


def _without_waiting(steps: Coroutine[Any, Any, httpx2.Response]) -> httpx2.Response:
    """Run a coroutine whose every step ends at once."""
    try:
        steps.send(None)
    except StopIteration as end:
        found: httpx2.Response = end.value
        return found
    raise RuntimeError("a step for threads has waited")
