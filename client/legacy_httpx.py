"""Transports for clients of httpx, the predecessor of httpx2. They need `pip install 'rumormill[httpx]'`.

    http = httpx.AsyncClient(transport=httpx_transport(pool.transport()), base_url="http://embed")

They translate requests, answers and errors, and decide nothing. An error is an instance of both libraries' classes, so
`except httpx.TransportError`, `except httpx2.TransportError` and `except NoWorkersError` all catch it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NoReturn, overload

import httpx2

try:
    import httpx
except ImportError:
    raise ImportError(
        "clients of httpx need the package httpx: pip install 'rumormill[httpx]'; clients of httpx2 need nothing more"
    ) from None

_ASYNC_ONLY = "this transport is of a Pool, for httpx.AsyncClient; httpx.Client takes the transport of a SyncPool"
_SYNC_ONLY = "this transport is of a SyncPool, for httpx.Client; httpx.AsyncClient takes the transport of a Pool"


@overload
def httpx_transport(transport: httpx2.AsyncBaseTransport) -> httpx.AsyncBaseTransport: ...
@overload
def httpx_transport(transport: httpx2.BaseTransport) -> httpx.BaseTransport: ...
def httpx_transport(
    transport: httpx2.AsyncBaseTransport | httpx2.BaseTransport,
) -> httpx.AsyncBaseTransport | httpx.BaseTransport:
    """The given transport of httpx2 as one of httpx: what `pool.transport()` and `figures.transport(...)` return."""
    if isinstance(transport, httpx2.AsyncBaseTransport):
        return LegacyTransport(transport)
    if isinstance(transport, httpx2.BaseTransport):
        return LegacySyncTransport(transport)
    raise TypeError(f"a {type(transport).__name__} is no transport of httpx2; give the result of pool.transport()")


class LegacyTransport(httpx.AsyncBaseTransport):
    """Sends the requests of an httpx.AsyncClient through a transport of httpx2."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _check_library(request)
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError(_ASYNC_ONLY)
        with _errors_of_both():
            response = await self._inner.handle_async_request(_inner_request(request, _AsyncBody(request.stream)))
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - by the contract of transports
        return _outer_response(response, _AsyncAnswer(response.stream))

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __enter__(self) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def handle_request(self, _request: object) -> NoReturn:
        raise TypeError(_ASYNC_ONLY)

    def close(self) -> None:
        """A client of the wrong kind may be closed all the same."""


class LegacySyncTransport(httpx.BaseTransport):
    """Sends the requests of an httpx.Client through a transport of httpx2."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        _check_library(request)
        if not isinstance(request.stream, httpx.SyncByteStream):
            raise TypeError(_SYNC_ONLY)
        with _errors_of_both():
            response = self._inner.handle_request(_inner_request(request, _SyncBody(request.stream)))
        assert isinstance(response.stream, httpx2.SyncByteStream)  # noqa: S101 - by the contract of transports
        return _outer_response(response, _SyncAnswer(response.stream))

    def close(self) -> None:
        self._inner.close()

    async def __aenter__(self) -> NoReturn:
        raise TypeError(_SYNC_ONLY)

    async def handle_async_request(self, _request: object) -> NoReturn:
        raise TypeError(_SYNC_ONLY)

    async def aclose(self) -> None:
        """A client of the wrong kind may be closed all the same."""


def _check_library(request: object) -> None:
    if isinstance(request, httpx2.Request):
        raise TypeError(
            "this transport is for clients of httpx, and the client is of httpx2, which takes pool.transport() as it is"
        )


def _inner_request(request: httpx.Request, body: httpx2.AsyncByteStream | httpx2.SyncByteStream) -> httpx2.Request:
    if isinstance(request.stream, httpx.ByteStream):
        body = httpx2.ByteStream(b"".join(request.stream))
    return httpx2.Request(
        request.method, str(request.url), headers=request.headers.raw, stream=body, extensions=request.extensions
    )


def _outer_response(response: httpx2.Response, body: httpx.AsyncByteStream | httpx.SyncByteStream) -> httpx.Response:
    return httpx.Response(
        response.status_code, headers=response.headers.raw, stream=body, extensions=response.extensions
    )


@contextmanager
def _errors_of_both() -> Iterator[None]:
    try:
        yield
    except (httpx2.RequestError, httpx2.StreamError) as error:
        # The same object, so that its attributes, causes and traceback stay.
        error.__class__ = _class_of_both(type(error))  # type: ignore[assignment, arg-type]
        raise


@cache
def _class_of_both(kind: type[Exception]) -> type[Exception]:
    """A class that is this one and its counterpart in httpx."""
    ancestor = next(one for one in kind.__mro__ if one.__module__ == "httpx2")
    counterpart = getattr(httpx, ancestor.__name__)
    return kind if issubclass(kind, counterpart) else type(kind.__name__, (kind, counterpart), {})


class _AsyncBody(httpx2.AsyncByteStream):
    """The body of a request."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)


class _SyncBody(httpx2.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)


class _AsyncAnswer(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream
        self._chunks: AsyncIterator[bytes] | None = None

    # An iterator and not a generator: callers may leave it half read, and trio warns about unfinished generators.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _errors_of_both():
            if self._chunks is None:
                self._chunks = aiter(self._stream)
            return await anext(self._chunks)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _SyncAnswer(httpx.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _errors_of_both():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()
