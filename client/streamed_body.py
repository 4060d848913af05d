"""The body of an answer that is passed to the caller as it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import httpx2

from rumormill.client.errors import PoolError, response_interrupted
from rumormill.client.in_flight import InFlightRequest, WorkerLost
from rumormill.client.worker_selector import WorkerSelector


class StreamedBody(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """Keeps its request in flight until it is closed, and raises an error as soon as its worker is lost."""

    def __init__(
        self, stream: httpx2.AsyncByteStream, in_flight: InFlightRequest, selector: WorkerSelector, *, success: bool
    ) -> None:
        """``success``: the worker's status says that it has served the request, if the body comes to its end."""
        self._stream = stream
        self._chunks = aiter(stream)
        self._in_flight = in_flight
        self._selector = selector
        self._success = success

    # An iterator and not a generator: callers may leave it half read, and trio warns about unfinished generators.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._next()
        if chunk is None:
            self._in_flight.finished = self._success
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes | None:
        try:
            return await self._in_flight.run(lambda: anext(self._chunks, None))
        except WorkerLost as lost:
            raise self._interrupted(lost.reason) from lost
        except httpx2.TimeoutException:
            raise
        except httpx2.TransportError as error:
            now = anyio.current_time()
            self._selector.record_unreachable(self._in_flight.worker, now, now)
            raise self._interrupted(str(error) or type(error).__name__) from error

    def _interrupted(self, what: str) -> PoolError:
        return response_interrupted(self._in_flight.worker, what, self._selector.topology, anyio.current_time())

    async def aclose(self) -> None:
        self._in_flight.close()
        with anyio.CancelScope(shield=True):
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
            await self._stream.aclose()
