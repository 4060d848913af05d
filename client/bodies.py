"""Bodies, kept where they are short: what may have to be sent twice, and what must arrive whole or not at all.

Request bodies of up to 8 MiB are read before the request is sent, so they can be sent again. A longer stream can be
sent once, and such a request is not replayable.

Answers are read to their end within the attempt where their Content-Length is at most 8 MiB. A worker that dies in
mid-body has then failed like one that died before it, and the request goes on to the next. Everything else is passed on
as it comes, because nobody can tell how long its next byte takes (`text/event-stream`, `application/x-ndjson`, chunked
anything, long downloads), and ends with an error if its worker dies: a caller who has seen half an answer cannot be
given another worker's half. Of JSON the head is of no use by itself, so it is passed on with the first bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

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
    beginning, rest = await _read(aiter(stream), LIMIT)
    return Kept(beginning) if rest is None else OneShot(beginning, rest)


async def read_response(response: httpx.Response) -> httpx.Response:
    """The answer as the caller may have it: whole where parts are of no use. Raises what reading raises.

    The response given is closed then, or on any error.
    """
    limit = kept_of_response(response)
    if limit is None or not isinstance(response.stream, httpx.AsyncByteStream):
        return response
    try:
        beginning, rest = await _read(aiter(response.stream), limit)
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


def kept_of_response(response: httpx.Response) -> int | None:
    """Bytes to which an answer is kept until its end: with one more it is passed on. None: it is not kept at all."""
    content_type: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "text/event-stream":
        return None
    length: str = response.headers.get("content-length", "")
    if length.isdecimal():
        return LIMIT if int(length) <= LIMIT else None
    return 0 if content_type == "application/json" or content_type.endswith("+json") else None


class _Resumed(OneShot):
    """An answer that is passed on: what was read of it, then the rest as it comes."""

    def __init__(self, beginning: bytes, rest: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
        super().__init__(beginning, rest)
        self._stream = stream

    async def aclose(self) -> None:
        if isinstance(self._rest, AsyncGenerator):
            await self._rest.aclose()
        await self._stream.aclose()


async def _read(stream: AsyncIterator[bytes], limit: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """All of it and None, or the first bytes beyond the limit and what is still to be read."""
    beginning = bytearray()
    async for chunk in stream:
        beginning += chunk
        if len(beginning) > limit:
            return bytes(beginning), stream
    return bytes(beginning), None
