"""The body of an answer that is passed to the caller as it arrives. It keeps its request in flight until it is closed.

Reading it raises an error as soon as the worker is lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import TracebackType

import anyio
import httpx2

from rumormill.client.connections.in_flight import InFlightRequest
from rumormill.client.connections.transport_errors import httpx2_errors


class AsyncStep:
    """One step of a request that may be interrupted from outside. Then leaving it raises why (in_flight.py)."""

    __slots__ = ("_flight", "_scope")

    def __init__(self, flight: InFlightRequest) -> None:
        self._flight = flight
        self._scope = anyio.CancelScope()

    def __enter__(self) -> None:
        self._flight.begin_step(self._scope.cancel)
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = self._scope.__exit__(kind, error, trace)
        self._flight.end_step()
        if interrupted:
            self._flight.check()


class SyncStep:
    """The same for a thread. `interrupt` makes what blocks it fail, and the failure becomes the reason."""

    __slots__ = ("_flight", "_interrupt")

    def __init__(self, flight: InFlightRequest, interrupt: Callable[[], object]) -> None:
        self._flight = flight
        self._interrupt = interrupt

    def __enter__(self) -> None:
        self._flight.begin_step(self._interrupt)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._flight.end_step()
        if isinstance(error, Exception):
            self._flight.check()


class StreamedBody(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """An answer for an asynchronous caller: first the part already read, then the rest as it arrives."""

    def __init__(
        self,
        beginning: bytes,
        rest: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        flight: InFlightRequest,
    ) -> None:
        self._beginning = beginning
        self._rest = rest
        self._close = close
        self._flight = flight
        self._closed = False

    # An iterator and not a generator: callers may leave it half read, and trio warns about unfinished generators.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            return beginning
        try:
            with AsyncStep(self._flight), httpx2_errors():
                return await anext(self._rest)
        except StopAsyncIteration:
            self._flight.finished = self._flight.success
            raise
        except Exception as error:
            told = self._flight.stream_error(error)
            if told is error:
                raise
            raise told from error

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._flight.close()
        with anyio.CancelScope(shield=True):
            if isinstance(self._rest, AsyncGenerator):
                await self._rest.aclose()
            await self._close()


class SyncStreamedBody(httpx2.SyncByteStream):
    """The same for a synchronous caller. `interrupt` ends a read that another thread is blocked in."""

    def __init__(
        self,
        beginning: bytes,
        rest: Iterator[bytes],
        close: Callable[[], None],
        interrupt: Callable[[], object],
        flight: InFlightRequest,
    ) -> None:
        self._beginning = beginning
        self._rest = rest
        self._close = close
        self._interrupt = interrupt
        self._flight = flight
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            yield beginning
        while (chunk := self._next()) is not None:
            yield chunk
        self._flight.finished = self._flight.success

    def _next(self) -> bytes | None:
        try:
            with SyncStep(self._flight, self._interrupt), httpx2_errors():
                return next(self._rest, None)
        except Exception as error:
            told = self._flight.stream_error(error)
            if told is error:
                raise
            raise told from error

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._flight.close()
            if isinstance(self._rest, Generator):
                self._rest.close()
            self._close()
