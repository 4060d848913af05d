"""The pool for threads. Each request runs in its caller's thread, over blocking sockets.

Only the watching needs a loop: of the sidecars, of evicted workers, and of the time when a hedge is due. One thread has
that loop for every pool of the process. All threads that use a pool share what is known about its workers.

A fork leaves the thread behind. A pool that is used in a child of the process that opened it opens itself again there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType

import anyio
import httpx2

from rumormill.client.base_pool import BasePool
from rumormill.client.connections.sync_upstream import SyncUpstream
from rumormill.client.discovery.topology import Topology
from rumormill.client.keys import KeyFunction
from rumormill.client.observability.events import SyncPoolEvents
from rumormill.client.options import PoolOptions
from rumormill.client.pool_background import PoolBackground
from rumormill.client.requests.dispatch import Dispatcher
from rumormill.client.requests.sync_requests import SyncRequests
from rumormill.client.rules.bodies import sync_request_body
from rumormill.client.rules.messages import httpx2_response, pool_request
from rumormill.client.rules.replay import Replay, checked_replay
from rumormill.client.runtime.loop_thread import acquire_loop, check_threads, release_loop
from rumormill.client.transports.fallbacks import SyncFallback
from rumormill.client.transports.pool_transports import SyncPoolTransport

_reopening = threading.Lock()
"""Held while a pool opens itself again after a fork."""


def _after_fork() -> None:
    """Replace the lock in the child, because a thread that was not copied may hold the old one."""
    global _reopening
    _reopening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class OpenSyncPool:
    """A synchronous pool from its opening to its closing."""

    def __init__(self, options: PoolOptions) -> None:
        self.loop = acquire_loop()
        try:
            self._background = self.loop.call(self._start, options)
        except BaseException:
            release_loop(self.loop)
            raise
        self.requests = SyncRequests(self.dispatcher)

    async def _start(self, options: PoolOptions) -> PoolBackground:
        background = PoolBackground(options, SyncUpstream, self.loop.call_soon)
        await background.start()
        return background

    @property
    def dispatcher(self) -> Dispatcher:
        return self._background.dispatcher

    def changed(self, known: Topology, timeout: float | None) -> Topology:
        async def wait() -> Topology:
            with anyio.fail_after(timeout):
                return await self._background.changed(known)

        return self.loop.call(wait)

    def close(self) -> BaseException | None:
        """Returns the error that crashed the background, if any. Does nothing in a forked child."""
        if not self.loop.running:
            return None
        try:
            return self.loop.call(self._background.stop)
        finally:
            release_loop(self.loop)

    def forget(self) -> None:
        """This process was forked from the one that opened the pool: drop the copies of its connections."""
        for upstream in self.dispatcher.upstreams.remove_all():
            if isinstance(upstream, SyncUpstream):
                upstream.close()


class SyncPool(BasePool):
    """The synchronous version of :class:`rumormill.client.Pool`. Threads may share it.

    with SyncPool(["http://127.0.0.1:7380"], service="embed") as pool:
        http = httpx2.Client(transport=pool.transport(), base_url="http://embed")

    Where no block fits, `pool.open()` and `pool.close()` do the same. The arguments are the fields of
    :class:`rumormill.client.PoolOptions`.
    """

    def __post_init__(self) -> None:
        """Raises RuntimeError if gevent has patched too late or only in part."""
        check_threads()
        super().__post_init__()
        self._open: OpenSyncPool | None = None

    def __enter__(self) -> SyncPool:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            # The block's own error takes precedence. The crash is in the log.
            if error is None:
                raise

    def open(self) -> SyncPool:
        """Start watching. Return when there is a list of workers, or after `patience`.

        Raises RuntimeError if the pool is open already.
        """
        if self._open is not None and not self._open.loop.inherited:
            raise RuntimeError("this pool is open already; close it first, or make another")
        self._reopen()
        return self

    def _reopen(self) -> None:
        inherited, self._open = self._open, OpenSyncPool(self)
        if inherited is not None:
            inherited.forget()

    def close(self) -> None:
        """Stop watching and close every connection. Safe to repeat, and in a forked child too.

        Raises the error that crashed the background task, if any.
        """
        closing, self._open = self._open, None
        crash = closing.close() if closing is not None else None
        if crash is not None:
            raise crash

    def transport(
        self,
        *,
        replay: Replay | None = None,
        key: KeyFunction | None = None,
        fallbacks: Sequence[SyncFallback] = (),
    ) -> SyncPoolTransport:
        """A transport for any httpx2.Client. Closing that client leaves the pool open.

        `key` reads the key from a request without a `Rumormill-Key` header (keys.py). `fallbacks` are for requests
        that no worker can serve, in order (fallbacks.py).
        An httpx.Client takes it wrapped: :func:`rumormill.client.legacy_httpx.httpx_transport`.
        """
        mode = self.replay if replay is None else checked_replay(replay)
        return SyncPoolTransport(self, mode, key=key, fallbacks=fallbacks, on_fallback=self._publish_fallback)

    def changed(self, known: Topology, timeout: float | None = None) -> Topology:
        """Wait until the topology differs from `known`, and return it. Raises TimeoutError after `timeout` seconds."""
        return self._opened().changed(known, timeout)

    def events(self, timeout: float | None = None) -> SyncPoolEvents:
        """What the pool concludes from now on, as with :meth:`Pool.events`.

        With `timeout`, the stream raises TimeoutError if nothing happens for so many seconds.
        """
        stream = SyncPoolEvents(timeout)
        self._require_open().upstreams.events.add(stream)
        return stream

    def send(self, request: httpx2.Request, *, replay: Replay | None = None) -> httpx2.Response:
        """Send one request, as with :meth:`Pool.send`."""
        requests = self._opened().requests
        prepared = pool_request(request, sync_request_body(request))
        return httpx2_response(requests.send(prepared, self.replay if replay is None else replay))

    def _require_open(self) -> Dispatcher:
        return self._opened().dispatcher

    def _opened(self) -> OpenSyncPool:
        """The open pool. One that was opened before a fork is first opened again in this process."""
        opened = self._open
        if opened is None:
            raise RuntimeError("this pool is not open; use it inside `with SyncPool(...) as pool`")
        if opened.loop.inherited:
            with _reopening:
                if self._open is opened:
                    self._reopen()
            return self._opened()
        return opened
