"""The connections to one worker for synchronous callers, each used in the thread of its caller.

Another thread may interrupt a caller that is blocked in a connection, by shutting its socket down. The library's own
streams do not give that socket out while they connect, so the stream is our own.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2
import httpx2

from rumormill.client.connections.in_flight import InFlightRequest
from rumormill.client.connections.streamed_body import SyncStep, SyncStreamedBody
from rumormill.client.connections.transport_errors import httpx2_errors
from rumormill.client.connections.upstream import KEEPALIVE, IdleLines, Upstream, is_readable
from rumormill.client.rules.bodies import BufferedBody
from rumormill.client.rules.messages import AnswerHead, PoolRequest, WorkerAnswer


class SyncUpstream(Upstream):
    """Sends the requests of synchronous callers to one worker."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(url, tls)
        self._idle: IdleLines[SyncLine] = IdleLines()

    def send(self, request: PoolRequest, flight: InFlightRequest) -> WorkerAnswer:
        """The answer, buffered as bodies.py says. Raises what httpx2 raises. `flight` then tells what was sent."""
        line = self._idle.take() or SyncLine(self.origin, self.tls)
        line.flight, line.body_follows = flight, isinstance(request.body, BufferedBody) and request.body.is_short
        try:
            with SyncStep(flight, line.interrupt), httpx2_errors():
                core = self.core_request(request, flight.attempt.began, flight.more_headers)
                response = line.connection.handle_request(core)
                head = AnswerHead(response.headers)
                if not head.buffer_limit:
                    self.restore_read_timeout(core, request)
                body = self._read(response, head.buffer_limit, line, flight)
        except BaseException:
            line.close()
            raise
        return WorkerAnswer(response.status, response.headers, body, dict(response.extensions), head.retry_after)

    def _read(
        self, response: httpcore2.Response, limit: int | None, line: SyncLine, flight: InFlightRequest
    ) -> httpx2.ByteStream | SyncStreamedBody:
        assert isinstance(response.stream, Iterable)  # noqa: S101 - by the interface of httpcore2
        chunks, beginning, size = iter(response.stream), [], 0
        if limit is not None:
            for chunk in chunks:
                beginning.append(chunk)
                size += len(chunk)
                if size > limit:
                    break
            else:
                response.close()
                flight.end_step()
                self.release(line)
                return httpx2.ByteStream(b"".join(beginning))
        return SyncStreamedBody(b"".join(beginning), chunks, self._closing(response, line), line.interrupt, flight)

    def _closing(self, response: httpcore2.Response, line: SyncLine) -> Callable[[], None]:
        def close() -> None:
            response.close()
            self.release(line)

        return close

    def release(self, line: SyncLine) -> None:
        """The request on this connection has ended, and nobody may interrupt it any more."""
        line.flight = None
        self._idle.put(line)
        self._close_surplus()

    def close(self) -> None:
        """Close the idle connections, and each other one when its request ends."""
        self._idle.close()
        self._close_surplus()

    async def aclose(self) -> None:
        self.close()

    def _close_surplus(self) -> None:
        for line in self._idle.surplus():
            line.close()


class SyncLine(httpcore2.NetworkBackend):
    """One connection, and the request that it carries. It is its connection's network backend, to reach the socket."""

    def __init__(self, origin: httpcore2.Origin, tls: ssl.SSLContext) -> None:
        self.connection = httpcore2.HTTPConnection(
            origin, ssl_context=tls, keepalive_expiry=KEEPALIVE, network_backend=self
        )
        self.flight: InFlightRequest | None = None
        self.body_follows = False
        """The head of the request waits for its body, because both fit into one packet or a few."""
        self.idle_since = 0.0
        self.interrupted = False
        self._lock = threading.Lock()
        """Held to shut the socket down or to close it, because a closed socket's number soon belongs to another."""
        self._socket: socket.socket | None = None

    def is_at_rest(self) -> bool:
        return not self.interrupted and self.connection.is_idle()

    def is_reusable(self) -> bool:
        return not self.connection.has_expired()

    def interrupt(self) -> None:
        """Make whatever blocks in this connection fail. Any thread may call it while the connection is in use."""
        with self._lock:
            self.interrupted = True
            if self._socket is not None:
                with suppress(OSError):
                    # The method of SSLSocket would drop the TLS state that the blocked thread uses.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def use_socket(self, sock: socket.socket) -> None:
        """The connection uses this socket from now on. Raises OSError if it was interrupted."""
        with self._lock:
            self._socket = sock
            if self.interrupted:
                raise ConnectionAbortedError("interrupted")

    def close_socket(self, sock: socket.socket) -> None:
        with self._lock:
            sock.close()

    def close(self) -> None:
        self.flight = None
        self.connection.close()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - by the interface of httpcore2
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        with _connect_errors():
            return InterruptibleStream(self._connected(host, port, timeout), self)

    def _connected(self, host: str, port: int, timeout: float | None) -> socket.socket:
        """The first address that takes a connection, as with `socket.create_connection`."""
        failure: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                self.use_socket(sock)
                sock.settimeout(timeout)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failure = error
                self.close_socket(sock)
            except BaseException:
                self.close_socket(sock)
                raise
            else:
                return sock
        raise failure


class InterruptibleStream(httpcore2.NetworkStream):
    """A connection's bytes. It tells the request that is sent over it how far that has got."""

    def __init__(self, sock: socket.socket, line: SyncLine) -> None:
        self._socket = sock
        self._line = line
        self._head = b""
        """The head that waits for its body."""
        self._written = 0
        """How many bytes the last write has sent."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        flight = self._line.flight
        if flight is None or flight.sent or not buffer:
            self._write(buffer, timeout)
            return
        if self._line.body_follows:
            self._line.body_follows, self._head = False, buffer
            return
        end_of_head = len(self._head or buffer)
        flight.sent, data, self._head = True, self._head + buffer, b""
        try:
            self._write(data, timeout)
        except httpcore2.WriteError:
            # Without the end of the head, the worker cannot have acted.
            flight.sent = self._written >= end_of_head
            raise

    def _write(self, buffer: bytes, timeout: float | None) -> None:
        rest, self._written = memoryview(buffer), 0
        try:
            while rest:
                self._socket.settimeout(timeout)
                sent = self._socket.send(rest)
                self._written += sent
                rest = rest[sent:]
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            with _connect_errors():
                self._socket.settimeout(timeout)
                wrapped = ssl_context.wrap_socket(
                    self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
                )
                self._socket = wrapped
                self._line.use_socket(wrapped)
                wrapped.do_handshake()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        self._line.close_socket(self._socket)

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "socket":
                return self._socket
            case "ssl_object":
                return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
            case "client_addr":
                return self._socket.getsockname()
            case "server_addr":
                return self._socket.getpeername()
            case "is_readable":
                return is_readable(self._socket)
        return None


@contextmanager
def _connect_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout(str(error)) from error
    except (OSError, UnicodeError) as error:  # the second is a host name that no resolver can be asked for
        raise httpcore2.ConnectError(str(error)) from error
