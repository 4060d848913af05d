"""The transports that carry an httpx2 client's requests to a pool. Each refuses the wrong client, and names the right.

Clients of httpx, the predecessor of httpx2, take these transports wrapped (legacy_httpx.py).
"""

from __future__ import annotations

from typing import NoReturn, Protocol

import httpx2

from rumormill.client.replay import Replay

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

    def __init__(self, pool: AsyncSender, replay: Replay) -> None:
        self._pool = pool
        self._replay: Replay = replay

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        check_library(request)
        return await self._pool.send(request, replay=self._replay)

    def __enter__(self) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def handle_request(self, _request: object) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def close(self) -> None:
        """A client of the wrong kind may be closed all the same."""


class SyncPoolTransport(httpx2.BaseTransport):
    """Sends the requests of an httpx2.Client to the workers of a pool."""

    def __init__(self, pool: SyncSender, replay: Replay) -> None:
        self._pool = pool
        self._replay: Replay = replay

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        check_library(request)
        return self._pool.send(request, replay=self._replay)

    async def __aenter__(self) -> NoReturn:
        raise TypeError(_SYNC_ONLY)

    async def handle_async_request(self, _request: object) -> NoReturn:
        raise TypeError(_SYNC_ONLY)

    async def aclose(self) -> None:
        """A client of the wrong kind may be closed all the same."""


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
