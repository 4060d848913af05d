"""The connections to one worker: what both kinds of pool share, without any input or output.

A connection is httpcore2's. It is used by one request at a time, and kept for the next one.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from typing import Generic, Protocol, TypeVar

import httpcore2
import httpx2

from rumormill.client.rules.deadline import deadline_header, limit_timeouts
from rumormill.client.rules.messages import PoolRequest, RawHeaders

CONNECT_LIMIT = 1.0
"""Seconds for a connection. Until there is one, moving on to another worker is safe. So the limit is shorter than most
callers would choose."""
KEEPALIVE = 4.0
"""Seconds that an idle connection is kept. Common servers close theirs after 5 s, and a request on a closing connection
counts as sent, so this is less."""
IDLE_CONNECTIONS = 64
"""Idle connections kept for each worker. More saves connecting after a burst, and costs the worker a socket each."""

# Plain HTTP needs no certificates, and loading them would take 20 ms for each worker.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Upstream:
    """One worker's URL. Each kind of pool has a subclass that sends requests there."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext]) -> None:
        """Raises httpx2.UnsupportedProtocol for a URL that cannot be used. `tls` is called only for https."""
        try:
            base = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise httpx2.UnsupportedProtocol(f"the worker's URL {url!r} is invalid: {error}") from None
        if base.scheme not in ("http", "https") or not base.host:
            raise httpx2.UnsupportedProtocol(f"the worker's URL {url!r} is neither http nor https")
        self.in_use = 0
        """Requests in flight, including streams that are not closed yet."""
        self.tls = tls() if base.scheme == "https" else _NO_TLS
        self._host_header = (b"Host", base.netloc)
        self._scheme, self._host, self._port = base.raw_scheme, base.raw_host, base.port
        self.host, self.port = base.host, base.port or (443 if base.scheme == "https" else 80)
        self._prefix = base.raw_path.rstrip(b"/")

    @property
    def origin(self) -> httpcore2.Origin:
        return httpcore2.URL(scheme=self._scheme, host=self._host, port=self._port).origin

    def core_request(self, request: PoolRequest, began: float, more: RawHeaders) -> httpcore2.Request:
        """The request of an attempt that began then, with this worker's scheme, host and port, and path as a prefix.

        The headers in `more` replace the caller's.
        """
        headers = request.headers
        if more:
            replaced = {name.lower() for name, _ in more}
            headers = [*more, *(pair for pair in headers if pair[0].lower() not in replaced)]
        timeout = dict(request.extensions.get("timeout") or {})
        connect = timeout.get("connect")
        timeout["connect"] = CONNECT_LIMIT if connect is None else min(connect, CONNECT_LIMIT)
        headers = [self._host_header, *headers]
        if request.deadline != inf:
            left = request.deadline - began
            limit_timeouts(timeout, left)
            headers.append(deadline_header(left))
        return httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=self._scheme, host=self._host, port=self._port, target=self._prefix + request.target),
            headers=headers,
            content=request.body,
            extensions={**request.extensions, "timeout": timeout},
        )

    def restore_read_timeout(self, core: httpcore2.Request, request: PoolRequest) -> None:
        """The head has come: from now on the caller's own timeout holds between two pieces of the body."""
        core.extensions["timeout"]["read"] = (request.extensions.get("timeout") or {}).get("read")

    async def aclose(self) -> None:
        """Close the idle connections, and each other one when its request ends."""
        raise NotImplementedError


def is_readable(sock: socket.socket) -> bool:
    """Whether data or the end of the connection has arrived, which a connection at rest does not expect."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class Line(Protocol):
    """One connection, as the idle ones are kept."""

    idle_since: float

    def is_at_rest(self) -> bool:
        """Whether the last request has ended and left the connection open."""

    def is_reusable(self) -> bool:
        """Whether the worker has kept it open too, as far as can be seen from here."""


L = TypeVar("L", bound=Line)


class IdleLines(Generic[L]):
    """The idle connections to one worker. The one used last is taken first, so that the others can grow old.

    Threads may share it: every change is one step of a deque.
    """

    def __init__(self) -> None:
        self._lines: deque[L] = deque()
        self._surplus: deque[L] = deque()
        self._closed = False

    def take(self) -> L | None:
        """A connection for a request, or None if a new one is needed."""
        while self._lines:
            with suppress(IndexError):
                line = self._lines.pop()
                if line.is_reusable():
                    return line
                self._surplus.append(line)
        return None

    def put(self, line: L) -> None:
        """The request has ended."""
        line.idle_since = now = time.monotonic()
        if self._closed or not line.is_at_rest():
            self._surplus.append(line)
        else:
            self._lines.append(line)
        with suppress(IndexError):
            while len(self._lines) > IDLE_CONNECTIONS or self._lines[0].idle_since < now - KEEPALIVE:
                self._surplus.append(self._lines.popleft())

    def close(self) -> None:
        """Keep no connection any more."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._surplus.append(self._lines.popleft())

    def surplus(self) -> Iterator[L]:
        """The connections to close now, each once."""
        with suppress(IndexError):
            while self._surplus:
                yield self._surplus.popleft()
