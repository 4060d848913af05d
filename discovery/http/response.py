"""Answers as bytes. Pure. An answer is encoded once; each request adds only the date and connection headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
CONNECTION_CLOSE: Final = b"Connection: close\r\n"
# HTTP/1.0 callers that asked to keep the connection must be told that it stays open.
CONNECTION_KEEP: Final = b"Connection: keep-alive\r\n"
JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

_encode = msgspec.json.Encoder().encode


class Problem(msgspec.Struct, frozen=True):
    """What went wrong (RFC 9457), and what to do about it."""

    title: str
    status: int
    detail: str
    hint: str
    type: str = "about:blank"


@dataclass(frozen=True, slots=True)
class PreparedResponse:
    """One answer, encoded. The same object serves every caller until its content changes."""

    status: int
    headers: bytes
    """Header lines after the date, the blank line included."""
    body: bytes
    headers_and_body: bytes
    """Headers and body together, so that a request costs one join."""
    etag: bytes = b""
    not_modified_headers: bytes = b""
    """The headers of a 304 for this answer."""

    def full(self, connection: bytes = b"", *, head_only: bool = False) -> UndatedAnswer:
        """The answer; without its body for HEAD. `connection` is a header line or nothing."""
        return UndatedAnswer(self.status, connection + (self.headers if head_only else self.headers_and_body))

    def not_modified(self, connection: bytes = b"") -> UndatedAnswer:
        """The 304 in place of the answer."""
        return UndatedAnswer(304, connection + self.not_modified_headers)


class UndatedAnswer(NamedTuple):
    """The bytes of an answer, but for the headers that change with time."""

    status: int
    rest: bytes
    """All that follows the date."""

    def encode(self, date: bytes) -> bytes:
        """The answer as it goes out."""
        return b"".join((STATUS_LINES[self.status], date, self.rest))


def prepare(
    body: bytes, *, status: int = 200, media: str = JSON, etag: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> PreparedResponse:
    """Encode an answer. The caller ensures that header values are visible ASCII."""
    shared = [f"{name}: {value}\r\n" for name, value in headers]
    if etag:
        shared.append(f"ETag: {etag}\r\n")
    shared.append("Cache-Control: no-cache\r\n" if etag else "Cache-Control: no-store\r\n")
    entity = [f"Content-Type: {media}\r\n", f"Content-Length: {len(body)}\r\n", "X-Content-Type-Options: nosniff\r\n"]
    head = "".join((*entity, *shared, "\r\n")).encode("ascii")
    return PreparedResponse(
        status=status,
        headers=head,
        body=body,
        headers_and_body=head + body,
        etag=etag.encode("ascii"),
        not_modified_headers="".join((*shared, "\r\n")).encode("ascii") if etag else b"",
    )


def prepare_json(
    value: object, *, status: int = 200, etag: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> PreparedResponse:
    """An answer in JSON, from a struct."""
    return prepare(_encode(value), status=status, etag=etag, headers=headers)


def prepare_problem(
    status: int, detail: str, hint: str, *, headers: tuple[tuple[str, str], ...] = ()
) -> PreparedResponse:
    """An error answer: `detail` says what is wrong, `hint` what to do."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, hint=hint)
    return prepare(_encode(problem), status=status, media=PROBLEM_JSON, headers=headers)


Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EventStream:
    """An answer without an end: what to send first, and then what to do until the caller disconnects."""

    first: bytes
    follow: Callable[[Send], Awaitable[None]]


Response = PreparedResponse | EventStream


class RequestRejected(Exception):
    """A fault of the caller, with the answer that says so. Nothing has changed here."""

    def __init__(self, answer: PreparedResponse) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


def refuse(status: int, detail: str, hint: str, *, headers: tuple[tuple[str, str], ...] = ()) -> RequestRejected:
    """The exception to raise for :func:`prepare_problem`."""
    return RequestRejected(prepare_problem(status, detail, hint, headers=headers))


def etag_matches(asked: bytes, etag: bytes) -> bool:
    """Whether ``If-None-Match`` names this (weak) tag: one, a list of them, or any."""
    if asked == etag:
        return True
    weak = etag.removeprefix(b"W/")
    return any(tag == b"*" or tag.removeprefix(b"W/") == weak for tag in (part.strip() for part in asked.split(b",")))
