"""The parts of ASGI that the middlewares share: a request that was read, an answer that can be kept, problems."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from rumormill.worker.errors import BodyTooLongError, EffectError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RawHeaders = list[tuple[bytes, bytes]]

PROBLEM_JSON: Final = b"application/problem+json"
PROBLEM_TYPE: Final = "urn:rumormill:"
BYPASSES: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"})
"""Extensions of ASGI by which an answer leaves in ways that cannot be kept."""


class ClientGoneError(Exception):
    """The caller closed its connection before its request was complete."""


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A request whose body has been read. Header names are in lower case."""

    method: str
    path: str
    query: bytes
    headers: RawHeaders
    body: bytes

    def header(self, name: str) -> bytes | None:
        """The value of the first header of this name."""
        wanted = name.lower().encode("latin-1")
        return next((value for header, value in self.headers if header == wanted), None)


class KeptAnswer(msgspec.Struct, array_like=True):
    """An answer as it stands in the store."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | None
    """None if the answer was too long to keep."""
    kept_at: float = 0.0
    """Wall clock, in seconds. 0 if nobody needs it."""

    def encode(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def decode(cls, encoded: bytes) -> KeptAnswer:
        """Raises msgspec.MsgspecError if this is no answer of ours."""
        return _DECODER.decode(encoded)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(KeptAnswer)


async def read_request(scope: Scope, receive: Receive, limit: int) -> IncomingRequest:
    """Read the whole body. Raises :class:`BodyTooLongError` and :class:`ClientGoneError`."""
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise BodyTooLongError(f"a request with a key may have at most {limit} bytes; send less, or raise max_body")
        more = message.get("more_body", False)
    return request_of(scope, b"".join(chunks))


def request_of(scope: Scope, body: bytes) -> IncomingRequest:
    """The request that a scope describes."""
    return IncomingRequest(scope["method"], scope["path"], scope["query_string"], list(scope["headers"]), body)


def without_bypasses(scope: Scope) -> Scope:
    """The scope as an app may have it whose answer is to be kept."""
    extensions = {name: value for name, value in (scope.get("extensions") or {}).items() if name not in BYPASSES}
    return {**scope, "extensions": extensions}


async def send_answer(send: Send, answer: KeptAnswer, *extra: tuple[bytes, bytes]) -> None:
    """Send a kept answer. Its body must have been kept."""
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, *extra]})
    await send({"type": "http.response.body", "body": answer.body or b"", "more_body": False})


def problem(error: EffectError) -> KeptAnswer:
    """The answer that tells a caller of an error (RFC 9457)."""
    return problem_answer(error.status, error.name, str(error), error.retry_after)


def problem_answer(status: int, name: str, detail: str, retry_after: int | None = None) -> KeptAnswer:
    """An answer in application/problem+json."""
    title = HTTPStatus(status).phrase
    body = json.dumps({"type": PROBLEM_TYPE + name, "title": title, "status": status, "detail": detail}).encode()
    headers = [(b"content-type", PROBLEM_JSON), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    return KeptAnswer(status, headers, body)
