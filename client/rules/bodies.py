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

from collections.abc import AsyncIterator, Iterator

import httpx2

BUFFER_LIMIT = 8 * 2**20
"""Bytes. More keeps longer bodies replayable, and costs that much memory for each request in flight."""
SENT_AT_ONCE = 64 * 1024
"""Bytes of a body that are copied behind the head of its request, to be sent in one call."""


class BufferedBody:
    """A body in memory. It can be sent any number of times."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def is_short(self) -> bool:
        """Whether there is a body, and sending it together with the head costs less than sending it after the head."""
        return 0 < len(self.data) <= SENT_AT_ONCE

    def __iter__(self) -> Iterator[bytes]:
        return iter((self.data,)) if self.data else iter(())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _OneChunk(self.data)


class _OneChunk(AsyncIterator[bytes]):
    # An iterator and not a generator: a broken connection leaves it half read, and trio warns about such generators.
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        data, self._data = self._data, b""
        return data


class OneShotBody(AsyncIterator[bytes]):
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


class OneShotSyncBody(Iterator[bytes]):
    """The same for a synchronous caller."""

    def __init__(self, beginning: bytes, rest: Iterator[bytes]) -> None:
        self._beginning = beginning
        self._rest = rest
        self._used = False

    def __iter__(self) -> Iterator[bytes]:
        if self._used:
            raise httpx2.StreamConsumed
        self._used = True
        return self

    def __next__(self) -> bytes:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            return beginning
        return next(self._rest)


Body = BufferedBody | OneShotBody | OneShotSyncBody


async def request_body(request: httpx2.Request) -> Body:
    """The body of an asynchronous caller's request. Raises TypeError for the body of a synchronous one."""
    stream = request.stream
    if (content := _content(request)) is not None:
        return BufferedBody(content)
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise TypeError("this transport is for httpx2.AsyncClient; httpx2.Client needs the transport of a SyncPool")
    beginning, chunks = bytearray(), aiter(stream)
    async for chunk in chunks:
        beginning += chunk
        if len(beginning) > BUFFER_LIMIT:
            return OneShotBody(bytes(beginning), chunks)
    return BufferedBody(bytes(beginning))


def sync_request_body(request: httpx2.Request) -> Body:
    """The body of a synchronous caller's request. Raises TypeError for the body of an asynchronous one."""
    stream = request.stream
    if (content := _content(request)) is not None:
        return BufferedBody(content)
    if not isinstance(stream, httpx2.SyncByteStream):
        raise TypeError("this transport is for httpx2.Client; httpx2.AsyncClient needs the transport of a Pool")
    beginning, chunks = bytearray(), iter(stream)
    for chunk in chunks:
        beginning += chunk
        if len(beginning) > BUFFER_LIMIT:
            return OneShotSyncBody(bytes(beginning), chunks)
    return BufferedBody(bytes(beginning))


def _content(request: httpx2.Request) -> bytes | None:
    """The body if the client has it in memory, which is the usual case."""
    if not isinstance(request.stream, httpx2.ByteStream):
        return None
    try:
        return request.content
    except httpx2.RequestNotRead:
        return None


def buffer_limit(content_type: bytes, content_length: bytes) -> int | None:
    """Bytes up to which an answer is buffered. A longer one is passed on. None means that nothing is buffered."""
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        return None
    if content_length.isdigit():
        return BUFFER_LIMIT if int(content_length) <= BUFFER_LIMIT else None
    return 0 if media_type == b"application/json" or media_type.endswith(b"+json") else None
