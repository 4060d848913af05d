"""The same pool for threads: the asynchronous one runs in another thread, and callers wait for it.

One loop serves every thread and every pool, so balance, hedging and what is known of workers are shared by all threads,
and there is one implementation of each. Handing a request over and back costs about half a millisecond.

A fork leaves the thread behind. A pool that is used in a child of the process it was opened in opens itself anew there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import anyio
import anyio.to_thread
import httpx

from rumormill.client.bodies import LIMIT, Body, Kept, OneShot
from rumormill.client.loop_thread import LoopThread, borrow_loop, check_threads, give_back
from rumormill.client.options import PoolOptions
from rumormill.client.pool import Pool
from rumormill.client.replay import Replay, checked_replay
from rumormill.client.topology import Topology
from rumormill.ring.worker import Worker

_reopening = threading.Lock()
"""Held while a pool opens itself anew after a fork."""


def _after_fork() -> None:
    """In the child: the lock may be held by a thread that was not copied."""
    global _reopening
    _reopening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class SyncPool(PoolOptions):
    """The synchronous twin of :class:`rumormill.client.Pool`, safe to share among threads.

    with SyncPool(["http://127.0.0.1:7380"], service="embed") as pool:
        http = httpx.Client(transport=pool.transport(), base_url="http://embed")

    `pool.open()` and `pool.close()` do the same where no block fits.
    """

    def __post_init__(self) -> None:
        """Raises RuntimeError where gevent has patched too late or only in part."""
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
            # The block's own error goes first; the crash is in the log.
            if error is None:
                raise

    def open(self) -> SyncPool:
        """Start watching; return when there is a list, or `patience` is over.

        Raises RuntimeError where the pool is open already.
        """
        if self._loop is not None and not self._loop.inherited:
            raise RuntimeError("this pool is open already; close it first, or make another")
        self._start()
        return self

    def _start(self) -> None:
        loop = borrow_loop()
        try:
            loop.call(self._pool.open)
        except BaseException:
            give_back(loop)
            raise
        self._loop = loop

    def close(self) -> None:
        """Stop watching and close every connection. Safe to repeat, and in a forked child too.

        Raises what crashed in the background, if anything did.
        """
        loop, self._loop = self._loop, None
        if loop is None or not loop.running:
            return
        try:
            loop.call(self._pool.aclose)
        finally:
            give_back(loop)

    @property
    def topology(self) -> Topology:
        """What the pool believes now."""
        self._opened()
        return self._pool.topology

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Alive and suspect workers, in every readiness, sorted by name."""
        return self.topology.workers

    def owners(self, key: str | bytes, n: int | None = None) -> list[Worker]:
        """The owners of a key in order of preference; without a zone, as all sidecars of the same digest name them."""
        self._opened()
        return self._pool.owners(key, n)

    def transport(self, *, replay: Replay | None = None) -> SyncPoolTransport:
        """A transport for any httpx.Client; closing that client leaves the pool open."""
        return SyncPoolTransport(self, self.replay if replay is None else checked_replay(replay))

    @contextmanager
    def acquire(self, key: str | bytes | None = None) -> Iterator[Worker]:
        """A worker for a client of your own; as :meth:`Pool.acquire`."""
        loop, lease = self._opened(), self._pool.acquire(key)
        worker = loop.call(_entered, lease)
        try:
            yield worker
        except BaseException as error:
            if loop.running:
                loop.call(_left, lease, error)
            raise
        if loop.running:
            loop.call(_left, lease, None)

    def changed(self, known: Topology, timeout: float | None = None) -> Topology:
        """Wait until the pool believes something else than `known`, and return it. Raises TimeoutError, if asked to."""
        return self._opened().call(self._changed, known, timeout)

    async def _send(self, request: httpx.Request, replay: Replay | None) -> httpx.Response:
        return await self._pool.send(request, replay=replay)

    async def _changed(self, known: Topology, timeout: float | None) -> Topology:
        with anyio.fail_after(timeout):
            return await self._pool.changed(known)

    def send(self, request: httpx.Request, *, replay: Replay | None = None) -> httpx.Response:
        """Send one request; as :meth:`Pool.send`. What the transports do."""
        inner = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=_kept(request),
            extensions=request.extensions,
        )
        loop = self._opened()
        response = loop.call(self._send, inner, replay)
        stream = response.stream
        if isinstance(stream, httpx.AsyncByteStream) and not isinstance(stream, httpx.ByteStream):
            return httpx.Response(
                response.status_code,
                headers=response.headers,
                stream=_BlockingBody(loop, stream),
                extensions=response.extensions,
            )
        return response

    def _opened(self) -> LoopThread:
        """The loop that the pool is open in; opened now if that was before the process was forked."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("this pool is not open; use it inside `with SyncPool(...) as pool`")
        if loop.inherited:
            with _reopening:
                if self._loop is loop:
                    self._start()
            return self._opened()
        return loop


async def _entered(lease: AbstractContextManager[Worker]) -> Worker:
    return lease.__enter__()


async def _left(lease: AbstractContextManager[Worker], error: BaseException | None) -> None:
    lease.__exit__(
        type(error) if error is not None else None, error, error.__traceback__ if error is not None else None
    )


class SyncPoolTransport(httpx.BaseTransport):
    """Sends what an httpx.Client sends to the workers of a pool."""

    def __init__(self, pool: SyncPool, replay: Replay) -> None:
        self._pool = pool
        self._replay: Replay = replay

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._pool.send(request, replay=self._replay)


class _BlockingBody(httpx.SyncByteStream):
    """A streamed answer, read in the caller's thread."""

    def __init__(self, loop: LoopThread, stream: httpx.AsyncByteStream) -> None:
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


def _kept(request: httpx.Request) -> Body:
    """The request's body, read here in the caller's thread as far as it is kept at all."""
    stream = request.stream
    if not isinstance(stream, httpx.SyncByteStream):
        raise TypeError("this transport is for httpx.Client; httpx.AsyncClient takes that of a Pool")
    rest = iter(stream)
    beginning = bytearray()
    for chunk in rest:
        beginning += chunk
        if len(beginning) > LIMIT:
            return OneShot(bytes(beginning), _from_thread(rest))
    return Kept(bytes(beginning))


async def _from_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A blocking iterator, for the loop: each step is taken in a worker thread."""
    while (chunk := await anyio.to_thread.run_sync(next, chunks, None)) is not None:
        yield chunk
