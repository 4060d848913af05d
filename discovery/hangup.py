"""Callers that hang up while they wait, noticed without a task or a pending read for each.

A blocked query or an event stream is a parked task that touches its socket only when there is news. One nested epoll
watches the sockets of all of them for the other side's closing, and for nothing else; what a caller sends meanwhile
(a pipelined request) stays in the kernel's bounded buffer until its turn.
"""

from __future__ import annotations

import select

import trio


class HangupWatch:
    """Cancels the scope of a waiting caller whose socket closes. :meth:`run` must be running somewhere."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._scopes: dict[int, trio.CancelScope] = {}

    def add(self, fd: int | None, scope: trio.CancelScope) -> None:
        """Watch one socket, until it is removed. With no descriptor (a stream in memory) nothing is watched."""
        if fd is not None:
            self._scopes[fd] = scope
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)

    def remove(self, fd: int | None) -> None:
        """Watch it no longer. To be called before the socket closes, also where it has hung up."""
        if fd is not None and self._scopes.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Cancel scopes as their sockets close. Never returns."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0, 64):
                self._epoll.unregister(fd)
                self._scopes.pop(fd).cancel()
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Let the epoll go, when nobody is being watched any more."""
        self._epoll.close()
