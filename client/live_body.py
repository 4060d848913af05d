"""An answer passed on to the caller as it comes, for as long as its worker is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import httpx

from rumormill.client.errors import PoolError, response_interrupted
from rumormill.client.in_flight import InFlightRequest, WorkerLost
from rumormill.client.worker_selector import WorkerSelector


class LiveBody(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """It ends with an error as soon as its worker is lost."""

    def __init__(self, stream: httpx.AsyncByteStream, work: InFlightRequest, standings: WorkerSelector) -> None:
        self._stream = stream
        self._chunks = aiter(stream)
        self._work = work
        self._standings = standings

    # An iterator and no generator: callers may leave it half read, and trio minds generators that are.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes | None:
        try:
            return await self._work.run(lambda: anext(self._chunks, None))
        except WorkerLost as lost:
            raise self._interrupted(lost.reason) from lost
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            now = anyio.current_time()
            self._standings.failed(self._work.worker, now, now)
            raise self._interrupted(str(error) or type(error).__name__) from error

    def _interrupted(self, what: str) -> PoolError:
        return response_interrupted(self._work.worker, what, self._standings.topology, anyio.current_time())

    async def aclose(self) -> None:
        self._work.close()
        with anyio.CancelScope(shield=True):
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
            await self._stream.aclose()
