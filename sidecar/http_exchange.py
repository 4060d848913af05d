"""One HTTP/1.1 request to the worker, on a connection of its own: the parts that the worker check and the probes share.

Requests are written and responses are parsed here, with httptools. That costs 0.2 MB of memory, and httpx costs 7.7 MB
(docs/run/agent.md).
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Sequence

import httptools
import trio

from rumormill.sidecar.settings_values import HostPort, WorkerUrl


class NotHttp(Exception):
    """The bytes of the response are not HTTP."""


class PlainStream:
    """One connection to an IP address that waits only when it must.

    A worker on this machine connects and takes the request at once, so the check waits once, for the response. A check
    each second is a large part of the CPU that an idle sidecar uses.
    """

    def __init__(self, endpoint: HostPort) -> None:
        """Begins to connect. :meth:`send_all` raises OSError if that fails later."""
        self._socket = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            error = self._socket.connect_ex((endpoint.host, endpoint.port))
        except BaseException:
            self._socket.close()
            raise
        if error not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(error, os.strerror(error))

    async def send_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.wait_readable(self._socket)
        return self._socket.recv(max_bytes)

    def close(self) -> None:
        self._socket.close()


Stream = PlainStream | trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def connect(endpoint: HostPort, tls: ssl.SSLContext | None) -> Stream:
    """Open a connection. It raises OSError or ``trio.BrokenResourceError`` here or when it is first used."""
    if endpoint.ip is not None and tls is None:
        return PlainStream(endpoint)
    if tls is None:
        return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    return await trio.open_ssl_over_tcp_stream(endpoint.host, endpoint.port, ssl_context=tls, https_compatible=True)


def close(stream: Stream) -> None:
    """Close the connection at once, without a TLS goodbye."""
    match stream:
        case trio.SSLStream():
            stream.transport_stream.socket.close()
        case trio.SocketStream():
            stream.socket.close()
        case PlainStream():
            stream.close()


def encode_request(
    url: WorkerUrl,
    path: str,
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    keep: bool = False,
) -> bytes:
    """The bytes of one request. ``path`` is appended to that of the URL. The worker closes the connection after it,
    unless it is to ``keep`` it."""
    lines = [f"{method} {url.path}{path} HTTP/1.1", f"Host: {url.endpoint}", "User-Agent: rumormill"]
    given = {name.lower() for name, _ in headers}
    if "accept" not in given:
        lines.append("Accept: */*")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None or method != "GET":
        lines.append(f"Content-Length: {len(body or b'')}")
    lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
    return "\r\n".join((*lines, "", "")).encode() + (body or b"")


class ResponseReader:
    """Parses the first response that is not informational (1xx), as its bytes come."""

    def __init__(self, max_body: int = 0) -> None:
        """Keeps ``max_body`` bytes of the body."""
        self._parser = httptools.HttpResponseParser(self)
        self._max_body = max_body
        self._has_end = False
        self.status: int | None = None
        self.body = bytearray()
        self.bytes_read = 0
        """Bytes of the whole response so far."""
        self.complete = False
        self.reusable = False
        """Whether another request may be sent on the same connection."""

    def feed_untrusted(self, data: bytes | bytearray) -> None:
        """Take the next bytes; none means that the connection was closed. Raises :class:`NotHttp`; a status that has
        come stays known."""
        self.bytes_read += len(data)
        if not data:
            self.complete = self.complete or (self.status is not None and not self._has_end)
        elif not self.complete:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                if not self.complete:
                    raise NotHttp(str(error)) from None

    def on_message_begin(self) -> None:
        self._has_end = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_end = True

    def on_headers_complete(self) -> None:
        if self.status is None and (status := self._parser.get_status_code()) >= 200:
            self.status = status

    def on_body(self, body: bytes) -> None:
        if self.status is not None:
            self.body += body[: self._max_body - len(self.body)]

    def on_message_complete(self) -> None:
        self.complete = self.status is not None
        self.reusable = self.complete and self._parser.should_keep_alive()


def describe_error(error: BaseException | None, endpoint: HostPort) -> str:
    """Why a connection failed, for a log line."""
    if refused(error):
        return f"nothing listens on {endpoint}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be verified: {error.verify_message} (set SSL_CERT_FILE to trust its authority)"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower()
    return str(error or "the connection was lost")


def caused_by_worker(error: OSError) -> bool:
    """Whether the worker's side caused the error, and not this machine or the network."""
    return isinstance(error, (ConnectionError, ssl.SSLError)) or refused(error)


def refused(error: BaseException | None) -> bool:
    """Whether the connection was refused; for a host name, at each of its addresses."""
    match error:
        case ConnectionRefusedError():
            return True
        case BaseExceptionGroup():
            return all(map(refused, error.exceptions))
        case OSError():
            return refused(error.__cause__)
    return False
