"""Bytes from anyone to requests, bounded. Sans-IO: feed bytes, take what has become complete.

The grammar is llhttp's (through httptools), in its strict mode. This file holds the limits: the length of the target,
the number and size of headers, the size of the body, and which headers are read at all.
"""

from __future__ import annotations

from typing import Final

import httptools

from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request_metrics import NO_ROUTE
from rumormill.discovery.http.response import PreparedResponse, RequestRejected, refuse

USED_HEADERS: Final = frozenset(
    {
        b"host",
        b"accept",
        b"authorization",
        b"if-none-match",
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"expect",
        b"rumormill-doubts",
        b"rumormill-key-proof",
        b"rumormill-requests",
        b"x-consul-token",
    }
)
LARGE_BODY_TARGETS: Final = b"/v3/discovery:"
METHODS: Final = frozenset({b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"})


class Request:
    """One complete request. Header values are raw bytes under lower-case names; only those we use are kept."""

    __slots__ = ("body", "from_view", "headers", "http10", "keep_alive", "method", "raw", "route", "target", "waited")

    def __init__(
        self, method: bytes, target: bytes, headers: dict[bytes, bytes], body: bytes, *, keep_alive: bool, http10: bool
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.http10 = http10
        """HTTP/1.0: the connection stays open only if the answer says so."""
        self.route = NO_ROUTE
        """The path of the route that answers it, once that is known."""
        self.waited = False
        """Whether its answer waited for a change, as the caller asked."""
        self.from_view = False
        """Whether the same bytes get the same answer until the view of the pool changes. Known with the route."""
        self.raw = b""
        """The bytes it came in, if they came in one read that held nothing else; else empty."""


class LargeBodies:
    """Counts the requests under way whose bodies are larger than usual."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way = 0

    def acquire(self) -> None:
        """Raises :class:`RequestRejected` (503) if there are too many."""
        if self._under_way >= self._most:
            raise refuse(
                503,
                "too many large requests are under way",
                "ask again in a moment, or another sidecar",
                headers=(("Retry-After", "1"),),
            )
        self._under_way += 1

    def release(self) -> None:
        self._under_way -= 1


class RequestReader:
    """Parses one connection's bytes. After a refusal it parses no more: send the refusal and close."""

    __slots__ = (
        "_body",
        "_complete",
        "_header_lines",
        "_headers",
        "_http10",
        "_in_head",
        "_is_large",
        "_large_bodies",
        "_limits",
        "_looks_like_tls",
        "_parser",
        "_target",
        "_unfinished_bytes",
        "expects_continue",
        "partial",
        "refusal",
    )

    def __init__(self, limits: Limits, large_bodies: LargeBodies | None = None) -> None:
        """Without `large_bodies` none is allowed."""
        self._limits = limits
        self._large_bodies = large_bodies
        self._is_large = False
        self._complete: list[Request] = []
        self._unfinished_bytes = 0
        self._in_head = True
        self._looks_like_tls = False
        self.refusal: PreparedResponse | None = None
        """The answer to the bytes after the last complete request; then the connection ends."""
        self.partial = False
        """Whether a request has begun and not ended."""
        self.expects_continue = False
        """Whether the caller withholds its body until it gets a 100 Continue."""
        self._begin()
        self._parser = httptools.HttpRequestParser(self)

    def feed_untrusted(self, data: bytes | bytearray) -> list[Request]:
        """Take in bytes. Returns the requests they completed, in order; :attr:`refusal` tells of a bad rest."""
        fresh = not self.partial
        self.expects_continue = False
        self._complete = []
        self._looks_like_tls = data.startswith(b"\x16\x03")
        self._unfinished_bytes += len(data)
        try:
            self._parser.feed_data(data)
            self._check_size()
        except httptools.HttpParserUpgrade:
            # Upgrades are declined by answering over HTTP/1.1; what may follow in the new protocol is not read.
            if self._complete:
                self._complete[-1].keep_alive = False
            else:
                self.refusal = refuse(501, "CONNECT is not done here", "speak HTTP/1.1 to this endpoint").answer
        except httptools.HttpParserError as error:
            self.refusal = self._refusal_for(error)
        except RequestRejected as refused:
            self.refusal = refused.answer
        if fresh and len(self._complete) == 1 and not self.partial and self.refusal is None:
            self._complete[0].raw = bytes(data)
        return self._complete

    def close(self) -> None:
        """Drop the parser: it and the reader refer to each other."""
        del self._parser
        self._release_body()

    def _refusal_for(self, error: httptools.HttpParserError) -> PreparedResponse:
        if isinstance(error.__context__, RequestRejected):
            return error.__context__.answer
        if isinstance(error, httptools.HttpParserCallbackError):  # our own bug must surface
            raise error
        if self._looks_like_tls:
            return refuse(
                400, "this is a TLS handshake, but this endpoint does not use TLS", "use http://, not https://"
            ).answer
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return refuse(501, "this method is not known here", "the methods of each route are in /openapi.json").answer
        return refuse(400, f"this is not HTTP/1.1: {error}", "send HTTP/1.1").answer

    def _check_size(self) -> None:
        if self._in_head and self._unfinished_bytes > self._limits.head:
            raise refuse(431, f"the request's head is over {self._limits.head} bytes", "send fewer or shorter headers")
        if self._unfinished_bytes > self._limits.head + self._longest_body:
            raise self._body_too_large()

    @property
    def _longest_body(self) -> int:
        return self._limits.large_body if self._is_large else self._limits.body

    def _check_body(self, size: int) -> None:
        """A body of this size comes, or has come so far. Raises :class:`RequestRejected`: 413, 503."""
        if size > self._limits.body and not self._is_large and self._target.startswith(LARGE_BODY_TARGETS):
            if self._large_bodies is None:
                raise self._body_too_large()
            self._large_bodies.acquire()
            self._is_large = True
        if size > self._longest_body:
            raise self._body_too_large()

    def _release_body(self) -> None:
        if self._is_large and self._large_bodies is not None:
            self._large_bodies.release()
        self._is_large = False

    def _body_too_large(self) -> RequestRejected:
        return refuse(413, f"the body is over {self._longest_body} bytes", "no route here takes a body of that size")

    # What llhttp calls, in the order of a message. An exception raised in one ends the parsing.

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_lines = 0
        self._body = b""
        self._http10 = False

    def on_message_begin(self) -> None:
        self.partial = True
        self._in_head = True
        self._begin()

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > self._limits.target:
            raise refuse(414, f"the target is over {self._limits.target} bytes", "use a shorter key or service name")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_lines += 1
        if self._header_lines > self._limits.headers:
            raise refuse(431, f"there are more than {self._limits.headers} headers", "send fewer headers")
        if not self._in_head:
            return  # a trailer: no decision may depend on what follows the body
        name = name.lower()
        if name == b"content-length":
            self._check_body(int(value) if len(value) <= 12 else self._limits.large_body + 1)
        if name not in USED_HEADERS:
            return
        if name in self._headers:
            if name == b"host":
                raise refuse(400, "there are two Host headers", "send one")
            value = self._headers[name] + b", " + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._http10 = self._parser.get_http_version() == "1.0"
        if not self._http10 and b"host" not in self._headers:
            raise refuse(400, "the Host header is missing", "HTTP/1.1 requires one")
        self.expects_continue = self._headers.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, part: bytes) -> None:
        self._body += part
        self._check_body(len(self._body))

    def on_message_complete(self) -> None:
        parser = self._parser
        self._complete.append(
            Request(
                parser.get_method(),
                self._target,
                self._headers,
                self._body,
                keep_alive=parser.should_keep_alive(),
                http10=self._http10,
            )
        )
        self._release_body()
        self.partial = False
        self.expects_continue = False
        self._in_head = True
        # The rest of these bytes belongs to the next request and is not counted. So a head may be at most one read
        # larger than its limit.
        self._unfinished_bytes = 0
