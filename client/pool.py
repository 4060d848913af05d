"""The pool for asynchronous callers, on trio or asyncio."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

import httpx2

from rumormill.client.base_pool import BasePool
from rumormill.client.connections.async_upstream import AsyncUpstream
from rumormill.client.discovery.topology import Topology
from rumormill.client.keys import KeyFunction
from rumormill.client.observability.events import PoolEvents
from rumormill.client.pool_background import PoolBackground
from rumormill.client.requests.async_requests import AsyncRequests
from rumormill.client.requests.dispatch import Dispatcher
from rumormill.client.rules.bodies import request_body
from rumormill.client.rules.messages import httpx2_response, pool_request
from rumormill.client.rules.replay import Replay, checked_replay
from rumormill.client.transports.fallbacks import AsyncFallback
from rumormill.client.transports.pool_transports import PoolTransport


class Pool(BasePool):
    """The workers of one service, watched through several sidecars. It sends requests to them.

    async with Pool(["http://127.0.0.1:7380"], service="embed") as pool:
        http = httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed")
        await http.post("/v1/embeddings", json=body, headers={"Rumormill-Key": user_id})

    Where no block fits, such as in an app's lifespan, `await pool.open()` and `await pool.aclose()` do the same, from
    any task. A pool belongs to the process and the event loop in which it was opened. A closed pool can be opened
    again. Threads use :class:`rumormill.client.SyncPool`.

    The arguments are the fields of :class:`rumormill.client.PoolOptions`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._process = 0
        self._background: PoolBackground | None = None
        self._requests: AsyncRequests | None = None

    async def __aenter__(self) -> Pool:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        crash = await self._close()
        # The block's own error takes precedence. The crash is in the log.
        if crash is not None and error is None:
            raise crash

    async def open(self) -> Pool:
        """Start watching. Return when there is a list of workers, or after `patience`. An empty pool is no error here.

        Raises RuntimeError if the pool is open already.
        """
        if self._background is not None and self._process == os.getpid():
            raise RuntimeError("this pool is open already; close it first, or make another")
        self._process = os.getpid()
        background = self._background = PoolBackground(self, AsyncUpstream, _call)
        try:
            await background.start()
        except BaseException:
            self._background = None
            raise
        self._requests = AsyncRequests(background.dispatcher, background.tasks)
        return self

    async def aclose(self) -> None:
        """Stop watching and close every connection. Any task of the pool's event loop may call it, and repeat it.

        Raises the error that crashed the background task, if any.
        """
        crash = await self._close()
        if crash is not None:
            raise crash

    async def _close(self) -> BaseException | None:
        background = self._background
        # A pool that was opened before this process was forked is the parent's to close.
        if background is None or self._process != os.getpid():
            return None
        crash = await background.stop()
        self._background = self._requests = None
        return crash

    def transport(
        self,
        *,
        replay: Replay | None = None,
        key: KeyFunction | None = None,
        fallbacks: Sequence[AsyncFallback] = (),
    ) -> PoolTransport:
        """A transport for any httpx2.AsyncClient. Closing that client leaves the pool open.

        `key` reads the key from a request without a `Rumormill-Key` header (keys.py). `fallbacks` are for requests
        that no worker can serve, in order (fallbacks.py).
        An httpx.AsyncClient takes it wrapped: :func:`rumormill.client.legacy_httpx.httpx_transport`.
        """
        mode = self.replay if replay is None else checked_replay(replay)
        return PoolTransport(self, mode, key=key, fallbacks=fallbacks, on_fallback=self._publish_fallback)

    async def changed(self, known: Topology) -> Topology:
        """Wait until the topology differs from `known`, and return it."""
        self._require_open()
        assert self._background is not None  # noqa: S101 - it is open
        return await self._background.changed(known)

    def events(self) -> PoolEvents:
        """What the pool concludes from now on (events.py): topology, circuit breakers, the panic rule, fallbacks."""
        stream = PoolEvents()
        self._require_open().upstreams.events.add(stream)
        return stream

    async def send(self, request: httpx2.Request, *, replay: Replay | None = None) -> httpx2.Response:
        """Send one request, as the transports do. The scheme and host of its URL do not matter. Raises PoolError.

        The header `Rumormill-Key` chooses the worker. The response's extensions hold `rumormill_worker`, the
        :class:`Worker` that answered, and `rumormill_attempts`.
        """
        self._require_open()
        assert self._requests is not None  # noqa: S101 - it is open
        prepared = pool_request(request, await request_body(request))
        return httpx2_response(await self._requests.send(prepared, self.replay if replay is None else replay))

    def _require_open(self) -> Dispatcher:
        if self._background is None:
            raise RuntimeError("this pool is not open; use it inside `async with Pool(...) as pool`")
        if self._process != os.getpid():
            raise RuntimeError(
                "this pool was opened before the process forked, and its event loop stayed in the parent; "
                "open it in this process too, with `await pool.open()`"
            )
        return self._background.dispatcher


def _call(function: object) -> None:
    """Run it at once: this pool's callers are in its event loop."""
    assert callable(function)  # noqa: S101
    function()
