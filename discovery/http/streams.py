"""The callers' streams, watched by one nested epoll, so that no crowd of them can make gossip late.

Trio runs every task whose socket is ready before it looks at the time again: five thousand callers that ask, or go, at
the same moment would be one round of a tenth of a second. Here they do not wait on trio's sockets but on a
:class:`EpollMux`, which wakes a batch of them in each round and leaves the others in the kernel's queue. It also
notices callers that hang up while they wait for a change, without a pending read or a second task for each; what such a
caller sends meanwhile (a pipelined request) stays in the kernel's bounded buffer until its turn.

Events are edge-triggered: a line is readable from an event until a read comes back short. Streams that are not plain
sockets (TLS) are read and written through trio, and only their hanging up is watched here.
"""

from __future__ import annotations

import os
import select
from typing import Final

import trio

from rumormill.discovery.http.fair_scheduler import FairScheduler

READ: Final = 8192
_GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class ClientStream:
    """One caller's stream. Made by :meth:`EpollMux.connect`; used by one task."""

    __slots__ = ("_board", "_fd", "_hung_up", "_plain", "_readable", "_reader", "_scope", "stream")

    def __init__(self, board: EpollMux, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._board = board
        self._plain = isinstance(stream, trio.SocketStream)
        self._fd = _descriptor(stream)
        self._readable = False
        self._hung_up = False
        self._reader: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None

    async def receive(self) -> bytes | bytearray:
        """Some bytes, or none when the caller has no more to say. Raises OSError or trio's errors.

        Who has more to read without having been woken by the switchboard takes a turn for it.
        """
        if not self._plain:
            data = await self.stream.receive_some(READ)
            await self._board.turns.take()
            return data
        if self._readable:
            await self._board.turns.take()
        while True:
            if not self._readable:
                await self._until_readable()
            try:
                read = os.read(self._fd, READ)
            except BlockingIOError:
                self._readable = False
                continue
            # A short read has emptied the socket; what comes later makes a new event. The end makes none after it.
            self._readable = len(read) == READ or self._hung_up
            return read

    async def send(self, data: bytes) -> None:
        """Send all of it. Gives the loop back only if the caller's buffer is full. Raises OSError or trio's errors."""
        if self._plain:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        await self.stream.send_all(data)

    def hanging_up_ends(self, scope: trio.CancelScope | None) -> None:
        """From now on, cancel `scope` when the caller hangs up; with None, nothing is cancelled any more."""
        self._scope = scope
        if scope is not None and self._hung_up:
            scope.cancel()

    async def close(self) -> None:
        """Close the stream. Raises what closing it raises."""
        self._board.disconnect(self)
        await self.stream.aclose()

    def on_event(self, flags: int) -> None:
        """The switchboard's word that something has happened on the socket."""
        self._readable = True
        if flags & _GONE:
            self._hung_up = True
            if self._scope is not None:
                self._scope.cancel()
        if self._reader is not None:
            trio.lowlevel.reschedule(self._reader)
            self._reader = None

    async def _until_readable(self) -> None:
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    @property
    def fd(self) -> int:
        """The descriptor; -1 for a stream in memory."""
        return self._fd

    @property
    def events(self) -> int:
        """What to watch the descriptor for."""
        return (select.EPOLLIN if self._plain else 0) | select.EPOLLRDHUP | select.EPOLLET


class EpollMux:
    """All lines. :meth:`run` must be running somewhere for anyone to be heard."""

    def __init__(self, turns: FairScheduler, batch: int) -> None:
        self.turns = turns
        self._batch = batch
        self._epoll = select.epoll()
        self._lines: dict[int, ClientStream] = {}

    def connect(self, stream: trio.abc.Stream) -> ClientStream:
        """Begin to watch a stream; from now on it belongs to the line."""
        line = ClientStream(self, stream)
        if line.fd >= 0:
            self._lines[line.fd] = line
            self._epoll.register(line.fd, line.events)
        return line

    def disconnect(self, line: ClientStream) -> None:
        """Watch it no longer. Before its socket closes: the number may be another's a moment later."""
        if self._lines.pop(line.fd, None) is not None:
            self._epoll.unregister(line.fd)

    async def run(self) -> None:
        """Wake a batch of lines in each round of the loop. Never returns."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, flags in self._epoll.poll(0, self._batch):
                self._lines[fd].on_event(flags)

    def close(self) -> None:
        """Let the epoll go, when no line is left."""
        self._epoll.close()


def _descriptor(stream: trio.abc.Stream) -> int:
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
