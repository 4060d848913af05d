"""The callers' streams, watched by one nested epoll, so that many callers cannot delay gossip.

Trio runs every task whose socket is ready before it looks at the time again: five thousand callers that ask, or go, at
the same moment would be one round of a tenth of a second. Here they do not wait on trio's sockets but on a
:class:`EpollMux`, which wakes a batch of them in each round and leaves the others in the kernel's queue. It also
notices callers that hang up while they wait for a change, without a pending read or a second task for each; what such a
caller sends meanwhile (a pipelined request) stays in the kernel's bounded buffer until its turn.

Most requests are ones that were answered before, byte for byte. Their answers go out right where the event is seen,
without a switch to the caller's task and back.

Events are edge-triggered: a stream is readable from an event until a read comes back short. Streams that are not plain
sockets (TLS) are read and written through trio; only their disconnects are watched here.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

import trio

from rumormill.discovery.http.fair_scheduler import FairScheduler

READ_SIZE: Final = 8192
_DISCONNECT_EVENTS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class ClientStream:
    """One caller's stream. Made by :meth:`EpollMux.connect`; used by one task."""

    __slots__ = (
        "_answer_known",
        "_disconnected",
        "_fd",
        "_is_plain_socket",
        "_mux",
        "_readable",
        "_reader",
        "_received",
        "_scope",
        "stream",
    )

    def __init__(self, mux: EpollMux, stream: trio.abc.Stream, answer_known: Callable[[bytes], bool]) -> None:
        self.stream = stream
        self._mux = mux
        self._answer_known = answer_known
        self._received: bytes | None = None
        """What was read for the task that waits in :meth:`receive`, which is being woken."""
        self._is_plain_socket = isinstance(stream, trio.SocketStream)
        self._fd = _descriptor(stream)
        self._readable = self._is_plain_socket
        """Whether a read is worth a try. A new caller's first one is: its request is mostly there, and would otherwise
        wait behind the events of all others."""
        self._disconnected = False
        self._reader: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None

    async def receive(self) -> bytes | bytearray:
        """Some bytes, or none at the end of the stream. Raises OSError or trio's errors.

        A read that needs no wake-up by the multiplexer takes a turn of the scheduler.
        """
        if not self._is_plain_socket:
            data = await self.stream.receive_some(READ_SIZE)
            await self._mux.scheduler.acquire()
            return data
        if self._readable:
            await self._mux.scheduler.acquire()
        while True:
            if not self._readable:
                await self._until_readable()
                if self._received is not None:
                    received, self._received = self._received, None
                    return received
            try:
                read = os.read(self._fd, READ_SIZE)
            except BlockingIOError:
                self._readable = False
                continue
            # A short read has emptied the socket, and later bytes make a new event. The end of the stream makes none.
            self._readable = len(read) == READ_SIZE or self._disconnected
            return read

    async def send(self, data: bytes) -> None:
        """Send all of it. Gives the loop back only if the caller's buffer is full. Raises OSError or trio's errors."""
        if self._is_plain_socket:
            data = data[self.send_now(data) :]
            if not data:
                return
        await self.stream.send_all(data)

    def send_now(self, data: bytes) -> int:
        """Send what the caller's buffer takes at once, on a plain socket. Returns the number of bytes: none if the
        caller has gone, which the next :meth:`send` raises."""
        try:
            return os.write(self._fd, data)
        except OSError:
            return 0

    def cancel_on_disconnect(self, scope: trio.CancelScope | None) -> None:
        """Cancel `scope` when the caller disconnects, from now on. None cancels nothing."""
        self._scope = scope
        if scope is not None and self._disconnected:
            scope.cancel()

    async def close(self) -> None:
        """Close the stream. Raises what closing it raises."""
        self._mux.unregister(self)
        del self._answer_known  # it refers to who holds this stream, and only a garbage collection would end that
        await self.stream.aclose()

    def on_event(self, flags: int) -> None:
        """The multiplexer reports an event on the socket."""
        self._readable = True
        if flags & _DISCONNECT_EVENTS:
            self._disconnected = True
            if self._scope is not None:
                self._scope.cancel()
        if self._reader is None or (self._is_plain_socket and not self._disconnected and self._answer_at_once()):
            return
        trio.lowlevel.reschedule(self._reader)
        self._reader = None

    def _answer_at_once(self) -> bool:
        """Read, and answer if the answer is known; else leave what was read to the task that waits for it."""
        try:
            read = os.read(self._fd, READ_SIZE)
        except OSError:
            return False  # the task finds the same
        self._readable = len(read) == READ_SIZE
        if self._answer_known(read):
            return True
        self._received = read
        return False

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
        return (select.EPOLLIN if self._is_plain_socket else 0) | select.EPOLLRDHUP | select.EPOLLET


class EpollMux:
    """All streams of callers. They are read only while :meth:`run` runs."""

    def __init__(self, scheduler: FairScheduler, batch: int) -> None:
        self.scheduler = scheduler
        self._batch = batch
        self._epoll = select.epoll()
        self._streams: dict[int, ClientStream] = {}

    def register(self, stream: trio.abc.Stream, answer_known: Callable[[bytes], bool]) -> ClientStream:
        """Begin to watch a stream. The returned object owns it from now on.

        `answer_known` is called with bytes that were read while :meth:`ClientStream.receive` waits for them. It returns
        True if it has answered them, so that the caller's task need not wake. It may raise nothing."""
        client = ClientStream(self, stream, answer_known)
        if client.fd >= 0:
            self._streams[client.fd] = client
            self._epoll.register(client.fd, client.events)
        return client

    def unregister(self, stream: ClientStream) -> None:
        """Stop watching it. Call this before its socket closes: the descriptor may be reused at once."""
        if self._streams.pop(stream.fd, None) is not None:
            self._epoll.unregister(stream.fd)

    async def run(self) -> None:
        """Wake a batch of streams in each round of the loop. Never returns."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, flags in self._epoll.poll(0, self._batch):
                self._streams[fd].on_event(flags)

    def close(self) -> None:
        """Close the epoll, after all streams are closed."""
        self._epoll.close()


def _descriptor(stream: trio.abc.Stream) -> int:
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
