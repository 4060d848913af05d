"""Bodies, kept where they are short: what may have to be sent twice, and what must arrive whole or not at all.

Request bodies of up to 8 MiB are read before the request is sent, so they can be sent again. A longer stream can be
sent once, and such a request is not replayable.

Answers are read to their end within the attempt when they are of no use in parts: those with a Content-Length of up to
8 MiB, and JSON without one. A worker that dies in mid-body has then failed like one that died before it, and the
request goes on to the next. Everything else (`text/event-stream`, `application/x-ndjson`, chunked anything, long
downloads) is passed on as it comes, and ends with an error if its worker does: a caller who has seen half an answer
cannot be given another worker's half.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import anyio
import httpx

LIMIT = 8 * 2**20
"""Bytes. More keeps longer bodies replayable, and costs that much memory for each request under way."""


class Kept(httpx.AsyncByteStream):
    """A body in memory, that can be sent as often as need be."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _OneChunk(self._data)


class _OneChunk(AsyncIterator[bytes]):
    # An iterator and no generator: a connection that breaks leaves it half read, and trio minds generators that are.
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data


class OneShot(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """A body too long to keep: what was read of it, then the rest, once."""

    def __init__(self, beginning: bytes, rest: AsyncIterator[bytes]) -> None:
        self._beginning = beginning
        self._rest = rest
        self._used = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._used:
            raise httpx.StreamConsumed
        self._used = True
        return self

    async def __anext__(self) -> bytes:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            return beginning
        return await anext(self._rest)


Body = Kept | OneShot


async def prepare_request_body(stream: AsyncIterable[bytes]) -> Body:
    """The body in a form that says whether it can be sent twice."""
    if isinstance(stream, (Kept, OneShot)):
        return stream
    beginning, rest = await _read(aiter(stream))
    return Kept(beginning) if rest is None else OneShot(beginning, rest)


async def read_response(response: httpx.Response) -> httpx.Response:
    """The answer as the caller may have it: whole where parts are of no use. Raises what reading raises.

    The response given is closed then, or on any error.
    """
    if not whole_or_nothing(response) or not isinstance(response.stream, httpx.AsyncByteStream):
        return response
    try:
        beginning, rest = await _read(aiter(response.stream))
    except BaseException:
        with anyio.CancelScope(shield=True):
            await response.stream.aclose()
        raise
    body: httpx.AsyncByteStream
    if rest is None:
        await response.stream.aclose()
        body = httpx.ByteStream(beginning)
    else:
        body = _Resumed(beginning, rest, response.stream)
    return httpx.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)


def whole_or_nothing(response: httpx.Response) -> bool:
    """Whether an answer is to be read to its end before the caller is given any of it."""
    content_type: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "text/event-stream":
        return False
    length: str = response.headers.get("content-length", "")
    if length.isdecimal():
        return int(length) <= LIMIT
    return content_type == "application/json" or content_type.endswith("+json")


class _Resumed(OneShot):
    """An answer that proved too long to be kept: what was read of it, then the rest as it comes."""

    def __init__(self, beginning: bytes, rest: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
        super().__init__(beginning, rest)
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _read(stream: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """All of it and None, or the first bytes beyond the limit and what is still to be read."""
    beginning = bytearray()
    async for chunk in stream:
        beginning += chunk
        if len(beginning) > LIMIT:
            return bytes(beginning), stream
    return bytes(beginning), None
