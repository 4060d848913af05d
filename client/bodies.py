"""Short bodies are buffered: a request's so that it can be sent twice, an answer's so that it arrives whole.

Request bodies of up to 8 MiB are read before the request is sent, so they can be sent again. A longer stream can be
sent only once, and its request is not replayable.

An answer whose Content-Length is at most 8 MiB is read to its end within the attempt. If the worker dies before that,
the attempt has failed, and the request goes on to the next worker. Every other answer is passed on as it arrives,
because nobody can tell how long its next byte takes: `text/event-stream`, `application/x-ndjson`, anything chunked,
long downloads. It ends with an error if its worker dies: a caller that has seen half an answer cannot use the half of
another worker. The head of a JSON answer is useless alone, so it is passed on together with the first bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

import anyio
import httpx2

BUFFER_LIMIT = 8 * 2**20
"""Bytes. More keeps longer bodies replayable, and costs that much memory for each request in flight."""


class BufferedBody(httpx2.AsyncByteStream):
    """A body in memory. It can be sent any number of times."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _OneChunk(self._data)


class _OneChunk(AsyncIterator[bytes]):
    # An iterator and not a generator: a broken connection leaves it half read, and trio warns about such generators.
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data


class OneShotBody(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """A body too long to buffer. It can be read once: first the part already read, then the rest."""

    def __init__(self, beginning: bytes, rest: AsyncIterator[bytes]) -> None:
        self._beginning = beginning
        self._rest = rest
        self._used = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._used:
            raise httpx2.StreamConsumed
        self._used = True
        return self

    async def __anext__(self) -> bytes:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            return beginning
        return await anext(self._rest)


Body = BufferedBody | OneShotBody


async def prepare_request_body(stream: AsyncIterable[bytes]) -> Body:
    """The body as one of two classes, which say whether it can be sent twice."""
    if isinstance(stream, (BufferedBody, OneShotBody)):
        return stream
    beginning, rest = await _read(aiter(stream), BUFFER_LIMIT)
    return BufferedBody(beginning) if rest is None else OneShotBody(beginning, rest)


async def read_response(response: httpx2.Response) -> httpx2.Response:
    """The answer with as much of its body buffered as the rules above say. Raises what reading raises.

    The given response is closed once it is read to its end, and on any error.
    """
    limit = buffer_limit(response)
    if limit is None or not isinstance(response.stream, httpx2.AsyncByteStream):
        return response
    try:
        beginning, rest = await _read(aiter(response.stream), limit)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await response.stream.aclose()
        raise
    body: httpx2.AsyncByteStream
    if rest is None:
        await response.stream.aclose()
        body = httpx2.ByteStream(beginning)
    else:
        body = _PartlyReadBody(beginning, rest, response.stream)
    return httpx2.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)


def buffer_limit(response: httpx2.Response) -> int | None:
    """Bytes up to which an answer is buffered. A longer one is passed on. None means that nothing is buffered."""
    content_type: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "text/event-stream":
        return None
    length: str = response.headers.get("content-length", "")
    if length.isdecimal():
        return BUFFER_LIMIT if int(length) <= BUFFER_LIMIT else None
    return 0 if content_type == "application/json" or content_type.endswith("+json") else None


class _PartlyReadBody(OneShotBody):
    """An answer that is passed on: first the part already read, then the rest as it arrives."""

    def __init__(self, beginning: bytes, rest: AsyncIterator[bytes], stream: httpx2.AsyncByteStream) -> None:
        super().__init__(beginning, rest)
        self._stream = stream

    async def aclose(self) -> None:
        if isinstance(self._rest, AsyncGenerator):
            await self._rest.aclose()
        await self._stream.aclose()


async def _read(stream: AsyncIterator[bytes], limit: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """The whole body and None; or, if it exceeds the limit, what was read and the iterator over the rest."""
    beginning = bytearray()
    async for chunk in stream:
        beginning += chunk
        if len(beginning) > limit:
            return bytes(beginning), stream
    return bytes(beginning), None
