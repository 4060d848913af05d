"""One caller's connection: read, parse, answer, repeat. It moves bytes and keeps its one deadline up to date."""

from __future__ import annotations

import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import structlog
import trio

from rumormill.discovery.http.connection_slots import ConnectionSlots
from rumormill.discovery.http.fair_scheduler import FairScheduler
from rumormill.discovery.http.known_answers import KnownAnswer, KnownAnswers
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request import LargeBodies, Request, RequestReader
from rumormill.discovery.http.request_metrics import RequestMetrics
from rumormill.discovery.http.response import (
    CONNECTION_CLOSE,
    CONNECTION_KEEP,
    EventStream,
    PreparedResponse,
    RequestRejected,
    Response,
    UndatedAnswer,
    etag_matches,
    prepare_problem,
)
from rumormill.discovery.http.streams import READ_SIZE, ClientStream, EpollMux

MAX_LINGER_READS: Final = 64
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
STREAM_HEAD: Final = b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n\r\n"
DISCONNECT_ERRORS: Final = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)
"""The errors that a disconnect can raise, at any moment."""
REQUEST_TIMEOUT: Final = prepare_problem(408, "the request was not complete in time", "send it in one piece")
INTERNAL_ERROR: Final = prepare_problem(500, "this sidecar has a bug", "its log says more; gossip is not affected")

log = structlog.get_logger()


@dataclass(slots=True)
class ServerState:
    """The state that all connections share."""

    respond: Callable[[Request, ClientStream], Awaitable[Response]]
    """What answers a request. It may raise :class:`RequestRejected`."""
    limits: Limits
    slots: ConnectionSlots
    scheduler: FairScheduler
    mux: EpollMux
    counters: Counter[str]
    metrics: RequestMetrics
    revision: Callable[[], int]
    """Counts the changes of what answers are made of."""
    known_answers: KnownAnswers = field(default_factory=KnownAnswers)
    large_bodies: LargeBodies = field(init=False)
    closing: bool = False
    """Whether each connection is to end after its present answer."""
    now: float = 0.0
    """Seconds, as of the last sweep or the first connection after none. Exact enough for deadlines, free to read."""
    date: bytes = b""
    """The Date header and the other fixed headers of every answer, line ends included; as old as `now`."""
    connections: dict[Connection, None] = field(default_factory=dict)
    idle: dict[Connection, None] = field(default_factory=dict)
    """Connections without a complete request, the longest idle first."""

    def __post_init__(self) -> None:
        self.large_bodies = LargeBodies(self.limits.large_bodies)


class Connection:
    """One stream of a caller, counted as open from the start, so :meth:`serve` must be called. It runs until either
    side closes the stream, and raises nothing that a caller can cause."""

    __slots__ = ("_cancel_scope", "_overdue", "_reader", "_server", "_stream", "_unsent", "deadline", "opened_at")

    def __init__(self, server: ServerState, stream: trio.abc.Stream) -> None:
        self._server = server
        self._stream = server.mux.register(stream, self._answer_known)
        self._reader = RequestReader(server.limits, server.large_bodies)
        self._cancel_scope = trio.CancelScope()
        self._overdue = False
        self._unsent = b""
        self.opened_at = trio.current_time()
        self.deadline = server.now + server.limits.head_timeout
        """When the sweep ends this connection, whatever it is doing."""
        server.connections[self] = server.idle[self] = None

    def cancel(self, *, overdue: bool = False) -> None:
        """Close it. A connection that is overdue within a request gets an answer first; an evicted one does not."""
        self._overdue = overdue
        self._cancel_scope.cancel()

    async def serve(self) -> None:
        server = self._server
        try:
            with self._cancel_scope:
                await self._serve_requests()
            if self._overdue and self._reader.partial:
                await self._refuse(REQUEST_TIMEOUT)
        except DISCONNECT_ERRORS:
            server.counters["connections_broken"] += 1
        finally:
            server.connections.pop(self, None)
            server.idle.pop(self, None)
            self._reader.close()
            with trio.move_on_after(server.limits.linger):
                try:
                    await self._stream.close()
                except DISCONNECT_ERRORS:
                    server.counters["connections_broken"] += 1

    async def _serve_requests(self) -> None:
        server, limits, reader = self._server, self._server.limits, self._reader
        while True:
            data = await self._stream.receive()
            if not data:
                return
            if self._unsent:
                await self._send_rest()
                continue
            fresh = not reader.partial
            requests = reader.feed_untrusted(data)
            if requests and not await self._answer_all(requests):
                return
            if reader.refusal is not None:
                server.counters["requests_refused"] += 1
                await self._refuse(reader.refusal)
                return
            if not reader.partial:
                self.deadline = server.now + limits.idle_timeout
            elif fresh or requests:  # not at each read: a caller that drips bytes would never be overdue
                self.deadline = server.now + limits.head_timeout
            if reader.expects_continue:
                await self._stream.send(CONTINUE)

    def _answer_known(self, data: bytes) -> bool:
        """Answer a request that was answered before, byte for byte, without waking this connection's task. False if
        that task has to go on: with these bytes, or with what the caller's buffer did not take of the answer."""
        server = self._server
        revision = server.revision()
        known = server.known_answers.get(data, revision)
        if known is None or self._reader.partial or server.closing:
            return False
        began = perf_counter()
        server.counters["requests"] += 1
        server.idle.pop(self, None)
        server.idle[self] = None
        self.deadline = server.now + server.limits.idle_timeout
        encoded = known.answer.encode(server.date)
        server.metrics.record(known.route, known.answer.status, perf_counter() - began)
        self._unsent = encoded[self._stream.send_now(encoded) :]
        return not self._unsent

    async def _send_rest(self) -> None:
        """Send what the caller's buffer did not take of a known answer."""
        server = self._server
        server.idle.pop(self, None)
        await self._send(self._unsent)
        self._unsent = b""
        server.idle[self] = None
        self.deadline = server.now + server.limits.idle_timeout

    async def _answer_all(self, requests: list[Request]) -> bool:
        """Answer pipelined requests in order, each within its turn; True if the connection may go on."""
        server = self._server
        server.idle.pop(self, None)
        for position, request in enumerate(requests):
            if position:
                await server.scheduler.acquire()
            if not await self._answer(request):
                return False
        server.idle[self] = None
        return True

    async def _answer(self, request: Request) -> bool:
        """Answer one request; True if the connection may go on."""
        server = self._server
        server.counters["requests"] += 1
        self.deadline = math.inf
        began, revision = perf_counter(), server.revision()
        response = await self._respond(request)
        if isinstance(response, EventStream):
            try:
                with server.slots.wait(server.now):
                    server.metrics.record(request.route, 200, None)
                    await self._stream_events(response, head_only=request.method == b"HEAD")
                return False
            except RequestRejected as refused:
                response = refused.answer
        keep = request.keep_alive and not server.closing
        answer = _complete(request, response, keep=keep)
        server.metrics.record(request.route, answer.status, None if request.waited else perf_counter() - began)
        if request.from_view and keep and not request.waited and answer.status in (200, 304):
            server.known_answers.add(request.raw, KnownAnswer(request.route, answer), revision)
        await self._send(answer.encode(server.date))
        return keep

    async def _respond(self, request: Request) -> Response:
        server = self._server
        try:
            return await server.respond(request, self._stream)
        except RequestRejected as refused:
            server.counters["requests_refused"] += 1
            return refused.answer
        except Exception:
            # A bug in one answer must not take the worker out of the pool: log it here, and gossip goes on.
            log.exception("a request failed through a bug", target=request.target[:256])
            server.counters["requests_failed"] += 1
            return INTERNAL_ERROR

    async def _stream_events(self, stream: EventStream, *, head_only: bool) -> None:
        # No length and no chunks: the stream ends when the connection does, which every HTTP/1.x caller understands,
        # and one encoding of an event serves all.
        head = b"".join((b"HTTP/1.1 200 OK\r\n", self._server.date, CONNECTION_CLOSE, STREAM_HEAD))
        if head_only:
            await self._send(head)
            return
        await self._send(head + stream.first)
        with trio.CancelScope() as scope:
            self._stream.cancel_on_disconnect(scope)
            await stream.follow(self._send)

    async def _refuse(self, answer: PreparedResponse) -> None:
        """Give the last answer of this connection."""
        wire = answer.full(CONNECTION_CLOSE).encode(self._server.date)
        await linger(self._stream.stream, wire, self._server.limits.linger)

    async def _send(self, data: bytes) -> None:
        """Send all of it. The sweep ends a caller that does not read its answer in time."""
        self.deadline = self._server.now + self._server.limits.write_timeout
        await self._stream.send(data)
        self.deadline = math.inf


def _complete(request: Request, answer: PreparedResponse, *, keep: bool) -> UndatedAnswer:
    """The answer to this request: a 304 where the caller has it already."""
    connection = (CONNECTION_KEEP if request.http10 else b"") if keep else CONNECTION_CLOSE
    asked = request.headers.get(b"if-none-match")
    if asked is not None and answer.etag and etag_matches(asked, answer.etag):
        return answer.not_modified(connection)
    return answer.full(connection, head_only=request.method == b"HEAD")


async def linger(stream: trio.abc.Stream, answer: bytes, linger: float) -> None:
    """Send a last answer, and wait briefly for the caller to read it: closing with unread bytes resets the connection.

    Does not close the stream. Raises what :data:`DISCONNECT_ERRORS` lists.
    """
    with trio.move_on_after(linger):
        await stream.send_all(answer)
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
            for _ in range(MAX_LINGER_READS):
                if not await stream.receive_some(READ_SIZE):
                    break
