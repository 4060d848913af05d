"""A request and an answer as the pool's rules see them: neither synchronous nor asynchronous, and of no library.

Both kinds of pool share the rules. Only the bodies differ: a streamed one is read by the side that made it.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from math import inf
from typing import Any

import httpx2

from rumormill.client.rules.bodies import Body, BufferedBody, OneShotBody, OneShotSyncBody, buffer_limit

RawHeaders = list[tuple[bytes, bytes]]

_REQUEST_HEADERS = {
    b"rumormill-key": "rumormill-key",
    b"idempotency-key": "idempotency-key",
    b"content-length": "content-length",
    b"rumormill-deadline": "rumormill-deadline",
    b"accept": "accept",
}
_STREAM_FIELD = re.compile(rb'"stream"\s*:\s*true\b')
_NOT_SENT_ON = frozenset({b"host", b"rumormill-deadline"})


@dataclass(slots=True, eq=False)
class PoolRequest:
    """One request of a caller's."""

    method: str
    target: bytes
    """Path and query, as they are sent."""
    headers: RawHeaders
    """All but `Host`, of which each worker has its own, and `Rumormill-Deadline`, of which each attempt has its own."""
    read: dict[str, bytes]
    """The headers that decide something, by their names in lower case."""
    body: Body
    extensions: MutableMapping[str, Any]
    deadline: float = inf
    """When it must be answered, on the pool's clock."""

    @property
    def key(self) -> bytes | None:
        """The value of `Rumormill-Key`."""
        return self.read.get("rumormill-key")

    @property
    def content_length(self) -> str | None:
        length = self.read.get("content-length")
        return None if length is None else length.decode("latin-1")

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("ascii", "replace")

    @property
    def asks_for_stream(self) -> bool:
        """Whether the answer is to come piece by piece, as far as the request says so."""
        if b"text/event-stream" in self.read.get("accept", b""):
            return True
        return isinstance(self.body, BufferedBody) and _STREAM_FIELD.search(self.body.data) is not None

    @property
    def one_shot(self) -> bool:
        """Whether the body can be sent only once."""
        return isinstance(self.body, (OneShotBody, OneShotSyncBody))


class AnswerHead:
    """What the pool reads in the head of an answer."""

    __slots__ = ("_content_length", "_content_type", "_retry_after")

    def __init__(self, headers: RawHeaders) -> None:
        self._content_type = self._content_length = self._retry_after = b""
        for name, value in headers:
            match name.lower():
                case b"content-type":
                    self._content_type = value
                case b"content-length":
                    self._content_length = value
                case b"retry-after":
                    self._retry_after = value

    @property
    def buffer_limit(self) -> int | None:
        """Bytes of the body that arrive within the attempt (bodies.py)."""
        return buffer_limit(self._content_type, self._content_length)

    @property
    def retry_after(self) -> str:
        return self._retry_after.decode("latin-1")


@dataclass(slots=True, eq=False)
class WorkerAnswer:
    """One worker's answer."""

    status: int
    headers: RawHeaders
    body: httpx2.AsyncByteStream | httpx2.SyncByteStream | httpx2.ByteStream
    extensions: dict[str, Any]
    retry_after: str = ""

    @property
    def whole(self) -> bool:
        """Whether the body has arrived."""
        return isinstance(self.body, httpx2.ByteStream)


def pool_request(request: httpx2.Request, body: Body) -> PoolRequest:
    """The request of an httpx2 client."""
    headers, read = [], {}
    for pair in request.headers.raw:
        name = pair[0].lower()
        if name in _REQUEST_HEADERS:
            read[_REQUEST_HEADERS[name]] = pair[1]
        if name not in _NOT_SENT_ON:
            headers.append(pair)
    return PoolRequest(request.method, request.url.raw_path, headers, read, body, request.extensions)


def httpx2_response(answer: WorkerAnswer) -> httpx2.Response:
    """The answer for an httpx2 client."""
    return httpx2.Response(answer.status, headers=answer.headers, stream=answer.body, extensions=answer.extensions)
