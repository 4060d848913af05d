"""The same pool for threads: the asynchronous pool runs in another thread, and callers wait for it.

One loop serves every thread and every pool. So all threads share the balance, the hedging and what is known about the
workers, and each of these has one implementation. Handing a request over and back costs about half a millisecond.

A fork leaves the thread behind. A pool that is used in a child of the process that opened it opens itself again there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import anyio
import anyio.to_thread
import httpx2

from rumormill.client.bodies import BUFFER_LIMIT, Body, BufferedBody, OneShotBody
from rumormill.client.fallbacks import SyncFallback
from rumormill.client.keys import KeyFunction
from rumormill.client.loop_thread import LoopThread, acquire_loop, check_threads, release_loop
from rumormill.client.options import PoolOptions
from rumormill.client.pool import Pool
from rumormill.client.replay import Replay, checked_replay
from rumormill.client.topology import Topology
from rumormill.client.transports import SyncPoolTransport
from rumormill.ring.worker import Worker

_reopening = threading.Lock()
"""Held while a pool opens itself again after a fork."""


def _after_fork() -> None:
    """Replace the lock in the child, because a thread that was not copied may hold the old one."""
    global _reopening
    _reopening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class SyncPool(PoolOptions):
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
        self._pool = Pool(**self.as_arguments())
        self._loop: LoopThread | None = None

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
        if self._loop is not None and not self._loop.inherited:
            raise RuntimeError("this pool is open already; close it first, or make another")
        self._start()
        return self

    def _start(self) -> None:
        loop = acquire_loop()
        try:
            loop.call(self._pool.open)
        except BaseException:
            release_loop(loop)
            raise
        self._loop = loop

    def close(self) -> None:
        """Stop watching and close every connection. Safe to repeat, and in a forked child too.

        Raises the error that crashed the background task, if any.
        """
        loop, self._loop = self._loop, None
        if loop is None or not loop.running:
            return
        try:
            loop.call(self._pool.aclose)
        finally:
            release_loop(loop)

    @property
    def topology(self) -> Topology:
        """What the pool believes now."""
        self._require_open()
        return self._pool.topology

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Alive and suspect workers, in every readiness, sorted by name."""
        return self.topology.workers

    def owners(self, key: str | bytes, n: int | None = None) -> list[Worker]:
        """The owners of a key in order of preference. Without a zone, sidecars with the same digest give the same."""
        self._require_open()
        return self._pool.owners(key, n)

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
        return SyncPoolTransport(self, mode, key=key, fallbacks=fallbacks)

    @contextmanager
    def acquire(self, key: str | bytes | None = None) -> Iterator[Worker]:
        """A worker for a client of your own, as with :meth:`Pool.acquire`."""
        loop, lease = self._require_open(), self._pool.acquire(key)
        worker = loop.call(_enter, lease)
        try:
            yield worker
        except BaseException as error:
            if loop.running:
                loop.call(_exit, lease, error)
            raise
        if loop.running:
            loop.call(_exit, lease, None)

    def changed(self, known: Topology, timeout: float | None = None) -> Topology:
        """Wait until the topology differs from `known`, and return it. Raises TimeoutError after `timeout` seconds."""
        return self._require_open().call(self._changed, known, timeout)

    async def _send(self, request: httpx2.Request, replay: Replay | None) -> httpx2.Response:
        return await self._pool.send(request, replay=replay)

    async def _changed(self, known: Topology, timeout: float | None) -> Topology:
        with anyio.fail_after(timeout):
            return await self._pool.changed(known)

    def send(self, request: httpx2.Request, *, replay: Replay | None = None) -> httpx2.Response:
        """Send one request, as with :meth:`Pool.send`."""
        inner = httpx2.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=_read_body(request),
            extensions=request.extensions,
        )
        loop = self._require_open()
        response = loop.call(self._send, inner, replay)
        stream = response.stream
        if isinstance(stream, httpx2.AsyncByteStream) and not isinstance(stream, httpx2.ByteStream):
            return httpx2.Response(
                response.status_code,
                headers=response.headers,
                stream=_BlockingStream(loop, stream),
                extensions=response.extensions,
            )
        return response

    def _require_open(self) -> LoopThread:
        """The loop in which the pool is open. A pool opened before a fork is first opened again in this process."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("this pool is not open; use it inside `with SyncPool(...) as pool`")
        if loop.inherited:
            with _reopening:
                if self._loop is loop:
                    self._start()
            return self._require_open()
        return loop


async def _enter(lease: AbstractContextManager[Worker]) -> Worker:
    return lease.__enter__()


async def _exit(lease: AbstractContextManager[Worker], error: BaseException | None) -> None:
    lease.__exit__(
        type(error) if error is not None else None, error, error.__traceback__ if error is not None else None
    )


class _BlockingStream(httpx2.SyncByteStream):
    """A streamed answer that is read in the caller's thread."""

    def __init__(self, loop: LoopThread, stream: httpx2.AsyncByteStream) -> None:
        self._loop = loop
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        chunks = aiter(self._stream)

        async def following() -> bytes | None:
            return await anext(chunks, None)

        while (chunk := self._loop.call(following)) is not None:
            yield chunk

    def close(self) -> None:
        if self._loop.running:
            self._loop.call(self._stream.aclose)


def _read_body(request: httpx2.Request) -> Body:
    """The request's body. The part that is buffered is read here, in the caller's thread."""
    stream = request.stream
    if not isinstance(stream, httpx2.SyncByteStream):
        raise TypeError("this transport is for httpx2.Client; httpx2.AsyncClient needs the transport of a Pool")
    rest = iter(stream)
    beginning = bytearray()
    for chunk in rest:
        beginning += chunk
        if len(beginning) > BUFFER_LIMIT:
            return OneShotBody(bytes(beginning), _from_thread(rest))
    return BufferedBody(bytes(beginning))


async def _from_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A blocking iterator as an asynchronous one: a worker thread takes each step."""
    while (chunk := await anyio.to_thread.run_sync(next, chunks, None)) is not None:
        yield chunk
