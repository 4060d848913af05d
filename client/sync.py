"""The same pool for threads: the asynchronous one runs in a thread of its own, and callers wait for it.

One loop serves every thread, so balance, hedging and what is known of workers are shared by all of them, and there is
one implementation of each. Handing a request over and back costs about half a millisecond.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rumormill.client.bodies import LIMIT, Body, Kept, OneShot
from rumormill.client.pool import Pool
from rumormill.client.replay import Replay, checked_replay
from rumormill.client.topology import Topology
from rumormill.ring.worker import Worker

T = TypeVar("T")


class SyncPool:
    """The synchronous twin of :class:`rumormill.client.Pool`, safe to share among threads.

    with SyncPool(["http://127.0.0.1:7380"], service="embed") as pool:
        http = httpx.Client(transport=pool.transport(), base_url="http://embed")
    """

    def __init__(
        self,
        sources: str | Iterable[str],
        service: str,
        *,
        replay: Replay = "idempotent",
        hedge: bool = True,
        zone: str | None = None,
        bounded_load: bool = True,
        snapshot: str | Path | None = None,
        token: str | None = None,
        verify: ssl.SSLContext | None = None,
        patience: float = 2.0,
        rng: random.Random | None = None,
    ) -> None:
        """Takes what :class:`Pool` takes."""
        self._pool = Pool(
            sources,
            service,
            replay=replay,
            hedge=hedge,
            zone=zone,
            bounded_load=bounded_load,
            snapshot=snapshot,
            token=token,
            verify=verify,
            patience=patience,
            rng=rng,
        )
        self._replay: Replay = replay
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._process = 0

    def __enter__(self) -> SyncPool:
        """Start the thread and watch; return when there is a list, or `patience` is over."""
        with ExitStack() as stack:
            self._process = os.getpid()
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._pool))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._portal = None

    @property
    def topology(self) -> Topology:
        """What the pool believes now."""
        return self._pool.topology

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Alive and suspect workers, in every readiness, sorted by name."""
        return self.topology.workers

    def owners(self, key: str | bytes, n: int | None = None) -> list[Worker]:
        """The owners of a key in order of preference; without a zone, as all sidecars of the same digest name them."""
        return self._pool.owners(key, n)

    def transport(self, *, replay: Replay | None = None) -> SyncPoolTransport:
        """A transport for any httpx.Client; closing that client leaves the pool open."""
        return SyncPoolTransport(self, self._replay if replay is None else checked_replay(replay))

    @contextmanager
    def acquire(self, key: str | bytes | None = None) -> Iterator[Worker]:
        """A worker for a client of your own; as :meth:`Pool.acquire`."""
        loop, lease = self._open(), self._pool.acquire(key)
        worker = loop.call(lease.__enter__)
        try:
            yield worker
        except BaseException as error:
            loop.call(lease.__exit__, type(error), error, error.__traceback__)
            raise
        loop.call(lease.__exit__, None, None, None)

    def changed(self, known: Topology, timeout: float | None = None) -> Topology:
        """Wait until the pool believes something else than `known`, and return it. Raises TimeoutError, if asked to."""
        return self.call(self._changed, known, timeout)

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
        response = self.call(self._send, inner, replay)
        stream = response.stream
        if isinstance(stream, httpx.AsyncByteStream) and not isinstance(stream, httpx.ByteStream):
            return httpx.Response(
                response.status_code,
                headers=response.headers,
                stream=_BlockingBody(self, stream),
                extensions=response.extensions,
            )
        return response

    def call(self, step: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Do this in the pool's loop and wait for it; whatever ends the waiting ends the step too."""
        loop, doing = self._open(), _Doing(step, args)
        try:
            return loop.start_task_soon(doing.run).result()
        except BaseException:
            # An interrupt may strike before there is anything to cancel, so what is under way cancels itself.
            doing.give_up(loop)
            raise

    def _open(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("this pool is not open; use it inside `with SyncPool(...) as pool`")
        if self._process != os.getpid():
            raise RuntimeError("this pool was opened before the process forked; open one in each process instead")
        return self._portal


class _Doing(Generic[T]):
    """One step in the pool's loop, which the waiting thread can give up at any moment."""

    def __init__(self, step: Callable[..., Coroutine[Any, Any, T]], args: tuple[object, ...]) -> None:
        self._step = step
        self._args = args
        self._given_up = False
        self._over = False
        self._scope: anyio.CancelScope | None = None

    async def run(self) -> T:
        with anyio.CancelScope() as self._scope:
            if self._given_up:
                self._scope.cancel()
            try:
                return await self._step(*self._args)
            finally:
                self._over = True
        raise RuntimeError("given up by the thread that waited for it")

    def give_up(self, loop: BlockingPortal) -> None:
        """Cancel it, from the thread that waited. Nothing is left to do where it is over, or the loop is."""
        self._given_up = True
        if not self._over:
            with suppress(RuntimeError):
                loop.start_task_soon(self._cancel)

    async def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()


class SyncPoolTransport(httpx.BaseTransport):
    """Sends what an httpx.Client sends to the workers of a pool."""

    def __init__(self, pool: SyncPool, replay: Replay) -> None:
        self._pool = pool
        self._replay: Replay = replay

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._pool.send(request, replay=self._replay)


class _BlockingBody(httpx.SyncByteStream):
    """A streamed answer, read in the caller's thread."""

    def __init__(self, pool: SyncPool, stream: httpx.AsyncByteStream) -> None:
        self._pool = pool
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        chunks = aiter(self._stream)

        async def following() -> bytes | None:
            return await anext(chunks, None)

        while (chunk := self._pool.call(following)) is not None:
            yield chunk

    def close(self) -> None:
        self._pool.call(self._stream.aclose)


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
