"""One caller's connection: read, understand, answer, again. It moves bytes and keeps its one deadline up to date."""

from __future__ import annotations

import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from rumormill.discovery.http.connection_slots import Capacity
from rumormill.discovery.http.fair_scheduler import FairScheduler
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request import Request, RequestReader
from rumormill.discovery.http.response import (
    CONNECTION_CLOSE,
    CONNECTION_KEEP,
    EventStream,
    Prepared,
    RequestRejected,
    Response,
    etag_matches,
    prepare_problem,
)
from rumormill.discovery.http.streams import READ, ClientStream, EpollMux

LINGER_READS: Final = 64
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
STREAM_HEAD: Final = b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n\r\n"
GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)
"""What a caller's going away looks like, at whatever moment it goes."""
TOO_LATE: Final = prepare_problem(408, "the request did not come to its end in time", "send it in one piece")
BROKEN: Final = prepare_problem(500, "this sidecar has a bug", "its log says more; gossip is not affected")

log = structlog.get_logger()


@dataclass(slots=True)
class ServerState:
    """What all connections share."""

    respond: Callable[[Request, ClientStream], Awaitable[Response]]
    """What answers a request. It may raise :class:`RequestRejected`."""
    limits: Limits
    capacity: Capacity
    turns: FairScheduler
    board: EpollMux
    counters: Counter[str]
    closing: bool = False
    """Whether each connection is to end after its present answer."""
    now: float = 0.0
    """Seconds, brought up to date at each sweep and by whoever comes when nobody is there: exact enough for deadlines,
    and free to read."""
    date: bytes = b""
    """The Date header and what else stands in every answer, line ends included; as old as `now`."""
    open: dict[Connection, None] = field(default_factory=dict)
    idle: dict[Connection, None] = field(default_factory=dict)
    """Those without a whole request, the longest so first; a head that drips in counts as none."""


class Connection:
    """One stream of a caller, open from the start: :meth:`serve` has to be called. It runs until either side closes it,
    and raises nothing a caller can cause."""

    __slots__ = ("_endpoint", "_line", "_overdue", "_reader", "_scope", "deadline", "opened")

    def __init__(self, endpoint: ServerState, stream: trio.abc.Stream) -> None:
        self._endpoint = endpoint
        self._line = endpoint.board.connect(stream)
        self._reader = RequestReader(endpoint.limits)
        self._scope = trio.CancelScope()
        self._overdue = False
        self.opened = trio.current_time()
        self.deadline = endpoint.now + endpoint.limits.head_timeout
        """When the sweep ends this connection, whatever it is doing."""
        endpoint.open[self] = endpoint.idle[self] = None

    def end(self, *, overdue: bool = False) -> None:
        """Close it; one that is overdue in the middle of a request is told so, one whose place is needed is not."""
        self._overdue = overdue
        self._scope.cancel()

    async def serve(self) -> None:
        endpoint = self._endpoint
        try:
            with self._scope:
                await self._converse()
            if self._overdue and self._reader.partial:
                await self._refuse(TOO_LATE)
        except GONE:
            endpoint.counters["connections_broken"] += 1
        finally:
            endpoint.open.pop(self, None)
            endpoint.idle.pop(self, None)
            self._reader.close()
            with trio.move_on_after(endpoint.limits.linger):
                try:
                    await self._line.close()
                except GONE:
                    endpoint.counters["connections_broken"] += 1

    async def _converse(self) -> None:
        endpoint, limits, reader = self._endpoint, self._endpoint.limits, self._reader
        while True:
            data = await self._line.receive()
            if not data:
                return
            fresh = not reader.partial
            requests = reader.feed_untrusted(data)
            if requests and not await self._answer_all(requests):
                return
            if reader.refusal is not None:
                endpoint.counters["requests_refused"] += 1
                await self._refuse(reader.refusal)
                return
            if not reader.partial:
                self.deadline = endpoint.now + limits.idle_timeout
            elif fresh or requests:  # and not at each drop, or a dripping caller would never be overdue
                self.deadline = endpoint.now + limits.head_timeout
            if reader.expects_continue:
                await self._line.send(CONTINUE)

    async def _answer_all(self, requests: list[Request]) -> bool:
        """Answer pipelined requests in order, each in its turn; True if the connection may go on."""
        endpoint = self._endpoint
        endpoint.idle.pop(self, None)
        for position, request in enumerate(requests):
            if position:
                await endpoint.turns.take()
            if not await self._answer(request):
                return False
        endpoint.idle[self] = None
        return True

    async def _answer(self, request: Request) -> bool:
        """Answer one request; True if the connection may go on."""
        endpoint = self._endpoint
        endpoint.counters["requests"] += 1
        self.deadline = math.inf
        response = await self._respond(request)
        if isinstance(response, EventStream):
            try:
                with endpoint.capacity.wait(endpoint.now):
                    await self._stream_events(response, head_only=request.method == b"HEAD")
                return False
            except RequestRejected as refused:
                response = refused.answer
        keep = request.keep_alive and not endpoint.closing
        await self._send(self._encode(request, response, keep=keep))
        return keep

    async def _respond(self, request: Request) -> Response:
        endpoint = self._endpoint
        try:
            return await endpoint.respond(request, self._line)
        except RequestRejected as refused:
            endpoint.counters["requests_refused"] += 1
            return refused.answer
        except Exception:
            # A bug in one answer must not take the worker out of the pool: it is said here, and gossip goes on.
            log.exception("a request failed through a bug", target=request.target[:256])
            endpoint.counters["requests_failed"] += 1
            return BROKEN

    def _encode(self, request: Request, answer: Prepared, *, keep: bool) -> bytes:
        date = self._endpoint.date
        connection = (CONNECTION_KEEP if request.old else b"") if keep else CONNECTION_CLOSE
        asked = request.headers.get(b"if-none-match")
        if asked is not None and answer.etag and etag_matches(asked, answer.etag):
            return answer.wire_unchanged(date, connection)
        return answer.wire(date, connection, head_only=request.method == b"HEAD")

    async def _stream_events(self, stream: EventStream, *, head_only: bool) -> None:
        # No length and no chunks: the stream ends when the connection does, which every HTTP/1.x caller understands,
        # and one encoding of an event serves all.
        head = b"".join((b"HTTP/1.1 200 OK\r\n", self._endpoint.date, CONNECTION_CLOSE, STREAM_HEAD))
        if head_only:
            await self._send(head)
            return
        await self._send(head + stream.first)
        with trio.CancelScope() as scope:
            self._line.hanging_up_ends(scope)
            await stream.follow(self._send)

    async def _refuse(self, answer: Prepared) -> None:
        """Give the last answer of this connection."""
        wire = answer.wire(self._endpoint.date, CONNECTION_CLOSE, head_only=False)
        await linger(self._line.stream, wire, self._endpoint.limits.linger)

    async def _send(self, data: bytes) -> None:
        """Send all of it, or be ended by the sweep: a caller that does not take its answer holds nothing for long."""
        self.deadline = self._endpoint.now + self._endpoint.limits.write_timeout
        await self._line.send(data)
        self.deadline = math.inf


async def linger(stream: trio.abc.Stream, answer: bytes, linger: float) -> None:
    """Say why, and wait a moment for the caller to read it: closing on unread bytes would reset the answer away.

    Does not close the stream. Raises what :data:`GONE` lists.
    """
    with trio.move_on_after(linger):
        await stream.send_all(answer)
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
            for _ in range(LINGER_READS):
                if not await stream.receive_some(READ):
                    break
