"""Takes the steps of fallbacks.py: one loop for tasks and one for threads."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import httpx2

from rumormill.client.transports.fallbacks import (
    AskOther,
    AskPool,
    AsyncFallback,
    CloseAnswer,
    Outcome,
    SyncFallback,
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
    steps = serve(request, fallbacks, time.monotonic, replayable=replayable)
    outcome: Outcome = None
    try:
        step = next(steps)
        while True:
            try:
                match step:
                    case AskPool():
                        outcome = await send(request)
                    case AskOther(transport):
                        outcome = await transport.handle_async_request(request)
                    case CloseAnswer(response):
                        await response.aclose()
                        outcome = None
            except Exception as error:
                outcome = error
            step = steps.send(outcome)
    except StopIteration as end:
        found: httpx2.Response = end.value
        return found
    except BaseException:
        if isinstance(outcome, httpx2.Response):
            with anyio.CancelScope(shield=True):
                await outcome.aclose()
        raise


def sync_send_with_fallbacks(
    send: Callable[[httpx2.Request], httpx2.Response],
    request: httpx2.Request,
    fallbacks: Sequence[SyncFallback],
    *,
    replayable: bool,
) -> httpx2.Response:
    """`send` asks the pool."""
    steps = serve(request, fallbacks, time.monotonic, replayable=replayable)
    outcome: Outcome = None
    try:
        step = next(steps)
        while True:
            try:
                match step:
                    case AskPool():
                        outcome = send(request)
                    case AskOther(transport):
                        outcome = transport.handle_request(request)
                    case CloseAnswer(response):
                        response.close()
                        outcome = None
            except Exception as error:
                outcome = error
            step = steps.send(outcome)
    except StopIteration as end:
        found: httpx2.Response = end.value
        return found
    except BaseException:
        if isinstance(outcome, httpx2.Response):
            outcome.close()
        raise
