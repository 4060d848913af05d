"""The connections to one worker for asynchronous callers."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import Any

import anyio
import httpcore2
import httpx2
import trio

from rumormill.client.connections.in_flight import InFlightRequest
from rumormill.client.connections.streamed_body import StreamedBody
from rumormill.client.connections.transport_errors import httpx2_errors
from rumormill.client.connections.upstream import KEEPALIVE, IdleLines, Upstream, is_readable
from rumormill.client.rules.messages import AnswerHead, PoolRequest, WorkerAnswer
from rumormill.client.runtime.descriptors import descriptor_shortage

CONNECTING = 32
"""Connections to one worker that are made at a time. More makes each connection of a burst slower, until it misses the
time limit through this process's own fault. Fewer makes a burst wait longer where the network is slow."""
CONNECT_TRIES = 3
HELD_UP = 0.02
"""Seconds that a time limit may fire late. Beyond that, this process itself was too busy to connect in time."""


class AsyncUpstream(Upstream):
    """Sends the requests of asynchronous callers to one worker."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(url, tls)
        self._idle: IdleLines[AsyncLine] = IdleLines()
        self._connector = Connector()

    async def send(self, request: PoolRequest, flight: InFlightRequest) -> WorkerAnswer:
        """The answer, buffered as bodies.py says. Raises what httpx2 raises. `flight` then tells what was sent."""
        line = self._idle.take() or AsyncLine(self.origin, self.tls, self._connector)
        line.flight = flight
        with httpx2_errors():
            try:
                core = self.core_request(request, flight.attempt.began, flight.more_headers)
                response = await line.connection.handle_async_request(core)
                head = AnswerHead(response.headers)
                if not head.buffer_limit:
                    self.restore_read_timeout(core, request)
                body = await self._read(response, head.buffer_limit, line, flight)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await line.aclose()
                raise
        return WorkerAnswer(response.status, response.headers, body, dict(response.extensions), head.retry_after)

    async def _read(
        self, response: httpcore2.Response, limit: int | None, line: AsyncLine, flight: InFlightRequest
    ) -> httpx2.ByteStream | StreamedBody:
        assert isinstance(response.stream, AsyncIterable)  # noqa: S101 - by the interface of httpcore2
        chunks, beginning, size = aiter(response.stream), [], 0
        if limit is not None:
            async for chunk in chunks:
                beginning.append(chunk)
                size += len(chunk)
                if size > limit:
                    break
            else:
                await response.aclose()
                await self.release(line)
                return httpx2.ByteStream(b"".join(beginning))
        return StreamedBody(b"".join(beginning), chunks, self._closing(response, line), flight)

    def _closing(self, response: httpcore2.Response, line: AsyncLine) -> Callable[[], Coroutine[Any, Any, None]]:
        async def close() -> None:
            await response.aclose()
            await self.release(line)

        return close

    async def release(self, line: AsyncLine) -> None:
        """The request on this connection has ended."""
        line.flight = None
        self._idle.put(line)
        await self._close_surplus()

    async def aclose(self) -> None:
        self._idle.close()
        await self._close_surplus()

    async def _close_surplus(self) -> None:
        for line in self._idle.surplus():
            with anyio.CancelScope(shield=True):
                await line.aclose()


class Connector:
    """Makes the connections to one worker, a few at a time."""

    def __init__(self) -> None:
        """Create it in the event loop that will use it."""
        self._backend: httpcore2.AsyncNetworkBackend = (
            httpcore2.TrioBackend() if trio.lowlevel.in_trio_task() else httpcore2.AnyIOBackend()
        )
        self._limiter = anyio.CapacityLimiter(CONNECTING)
        self._failures = 0

    async def connect(self, host: str, port: int, timeout: float | None) -> httpcore2.AsyncNetworkStream:
        """Raises what httpcore2 raises, and the failure of a connection that was made while this one waited."""
        failures = self._failures
        async with self._limiter:
            if self._failures != failures:
                raise httpcore2.ConnectError("another connection to this worker has just failed")
            try:
                return await self._connect(host, port, timeout)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                self._failures += descriptor_shortage(error) is None
                raise

    async def _connect(self, host: str, port: int, timeout: float | None) -> httpcore2.AsyncNetworkStream:
        for _ in range(CONNECT_TRIES - 1):
            began = time.monotonic()
            try:
                return await self._backend.connect_tcp(host, port, timeout)
            except httpcore2.ConnectTimeout:
                if timeout is None or time.monotonic() < began + timeout + HELD_UP:
                    raise
        return await self._backend.connect_tcp(host, port, timeout)


class AsyncLine(httpcore2.AsyncNetworkBackend):
    """One connection, and the request that it carries. It is its connection's network backend, to see what is sent."""

    def __init__(self, origin: httpcore2.Origin, tls: ssl.SSLContext, connector: Connector) -> None:
        self.connection = httpcore2.AsyncHTTPConnection(
            origin, ssl_context=tls, keepalive_expiry=KEEPALIVE, network_backend=self
        )
        self.flight: InFlightRequest | None = None
        self.idle_since = 0.0
        self._connector = connector

    def is_at_rest(self) -> bool:
        return self.connection.is_idle()

    def is_reusable(self) -> bool:
        return not self.connection.has_expired()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - by the interface of httpcore2
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        return WatchedStream(await self._connector.connect(host, port, timeout), self)

    async def aclose(self) -> None:
        self.flight = None
        await self.connection.aclose()


class WatchedStream(httpcore2.AsyncNetworkStream):
    """A connection's bytes. It tells the request that is sent over it how far that has got."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream, line: AsyncLine) -> None:
        self._inner = inner
        self._line = line
        self._socket: socket.socket = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> Coroutine[Any, Any, bytes]:
        return self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        flight = self._line.flight
        if flight is None or flight.sent:
            await self._inner.write(buffer, timeout)
            return
        flight.sent = True
        try:
            await self._inner.write(buffer, timeout)
        except httpcore2.WriteError:
            # The head is sent in one write, which did not complete: the worker has not seen the end of the head.
            flight.sent = False
            raise

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return WatchedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._line)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._inner.aclose()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        # Asked before every request. The library looks the socket up each time, which costs more than asking it.
        return is_readable(self._socket) if info == "is_readable" else self._inner.get_extra_info(info)
