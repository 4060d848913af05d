"""The transports that carry an httpx2 client's requests to a pool. Each refuses the wrong client, and names the right.

Clients of httpx, the predecessor of httpx2, take these transports wrapped (legacy_httpx.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Protocol

import httpx2

from rumormill.client.keys import KeyFunction, RequestView, header_value
from rumormill.client.rules.replay import Replay, why_not_replayable
from rumormill.client.transports.fallback_loops import send_with_fallbacks, sync_send_with_fallbacks
from rumormill.client.transports.fallbacks import FALLBACK, AsyncFallback, FallbackUsed, SyncFallback, checked_fallbacks

OnFallback = Callable[[httpx2.Request, FallbackUsed], object]
"""Is told which request got which fallback."""
KEY_HEADER: Final = "Rumormill-Key"

_ASYNC_ONLY = "this transport is of a Pool, for httpx2.AsyncClient; httpx2.Client takes the transport of a SyncPool"
_SYNC_ONLY = "this transport is of a SyncPool, for httpx2.Client; httpx2.AsyncClient takes the transport of a Pool"


class AsyncSender(Protocol):
    """A pool for asynchronous callers."""

    async def send(self, request: httpx2.Request, *, replay: Replay | None = None) -> httpx2.Response: ...


class SyncSender(Protocol):
    """A pool for threads."""

    def send(self, request: httpx2.Request, *, replay: Replay | None = None) -> httpx2.Response: ...


class PoolTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of an httpx2.AsyncClient to the workers of a pool."""

    def __init__(
        self,
        pool: AsyncSender,
        replay: Replay,
        *,
        key: KeyFunction | None = None,
        fallbacks: Sequence[AsyncFallback] = (),
        on_fallback: OnFallback | None = None,
    ) -> None:
        checked_fallbacks(fallbacks, httpx2.AsyncBaseTransport)
        self._pool = pool
        self._replay: Replay = replay
        self._key = key
        self._fallbacks = fallbacks
        self._on_fallback = on_fallback

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        check_library(request)
        _set_key(request, self._key)
        if not self._fallbacks:
            return await self._send(request)
        replayable = _replayable(request, self._replay)
        response = await send_with_fallbacks(self._send, request, self._fallbacks, replayable=replayable)
        _tell(self._on_fallback, request, response)
        return response

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        return await self._pool.send(request, replay=self._replay)

    def __enter__(self) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def handle_request(self, _request: object) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def close(self) -> None:
        """A client of the wrong kind may be closed all the same."""


class SyncPoolTransport(httpx2.BaseTransport):
    """Sends the requests of an httpx2.Client to the workers of a pool."""

    def __init__(
        self,
        pool: SyncSender,
        replay: Replay,
        *,
        key: KeyFunction | None = None,
        fallbacks: Sequence[SyncFallback] = (),
        on_fallback: OnFallback | None = None,
    ) -> None:
        checked_fallbacks(fallbacks, httpx2.BaseTransport)
        self._pool = pool
        self._replay: Replay = replay
        self._key = key
        self._fallbacks = fallbacks
        self._on_fallback = on_fallback

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        check_library(request)
        _set_key(request, self._key)
        if not self._fallbacks:
            return self._send(request)
        replayable = _replayable(request, self._replay)
        response = sync_send_with_fallbacks(self._send, request, self._fallbacks, replayable=replayable)
        _tell(self._on_fallback, request, response)
        return response

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        return self._pool.send(request, replay=self._replay)

    async def __aenter__(self) -> NoReturn:
        raise TypeError(_SYNC_ONLY)

    async def handle_async_request(self, _request: object) -> NoReturn:
        raise TypeError(_SYNC_ONLY)

    async def aclose(self) -> None:
        """A client of the wrong kind may be closed all the same."""


def _set_key(request: httpx2.Request, key: KeyFunction | None) -> None:
    """Give the request the key that its function finds, unless the caller has set one."""
    if key is None or KEY_HEADER in request.headers:
        return
    body = request.stream
    content = b"".join(body) if isinstance(body, httpx2.ByteStream) else b""
    path = request.url.raw_path.decode("ascii")
    found = key(RequestView(request.method, path, request.headers.raw, content))
    value = None if found is None else header_value(found)
    if value is not None:
        request.headers = httpx2.Headers([*request.headers.raw, (KEY_HEADER.encode(), value)])


def _tell(on_fallback: OnFallback | None, request: httpx2.Request, response: httpx2.Response) -> None:
    used = response.extensions.get(FALLBACK)
    if on_fallback is not None and isinstance(used, FallbackUsed):
        on_fallback(request, used)


def _replayable(request: httpx2.Request, replay: Replay) -> bool:
    return why_not_replayable(replay, request.method, request.headers, one_shot=False) is None


def check_library(request: object) -> None:
    """Raises TypeError, with the right transport, if the request is of another library than httpx2."""
    if isinstance(request, httpx2.Request):
        return
    library = type(request).__module__.partition(".")[0]
    if library == "httpx":
        raise TypeError(
            "this transport is for clients of httpx2, and the client is of httpx, its predecessor; make the client "
            "with httpx2, or wrap the transport: rumormill.client.legacy_httpx.httpx_transport(pool.transport())"
        )
    raise TypeError(f"this transport is for clients of httpx2, and got a {library}.{type(request).__name__}")
