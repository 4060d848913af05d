"""HAProxy's agent check over TCP: a caller may send a line with a worker's name, and gets one line back.

A caller that sends nothing asks about this sidecar's own worker. TCP does not tell silence from a line that is still
under way, so it is answered after :data:`SILENCE`. Until this sidecar knows its pool it answers nobody: HAProxy then
leaves the server as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from rumormill.discovery.formats import haproxy
from rumormill.discovery.http.fair_scheduler import FairScheduler
from rumormill.discovery.listeners.bounded_accept import BoundedAccept
from rumormill.discovery.service_view import ALL_SERVICES
from rumormill.discovery.view import RoutingView

SILENCE: Final = 0.5
"""Seconds without a byte after which a caller asks about this sidecar's own worker."""
DEADLINE: Final = 2.0
"""Seconds for everything that one caller does."""
MAX_CALLERS: Final = 256
"""At one time."""
MAX_LINE: Final = 256


class AgentCheckServer:
    """Answers agent checks. `view` returns the present view of the pool, or None while it is not settled."""

    def __init__(self, view: Callable[[], RoutingView | None], counters: Counter[str], batch: int) -> None:
        self._view = view
        self._counters = counters
        self._scheduler = FairScheduler(batch)
        self._connections = BoundedAccept(MAX_CALLERS, self._scheduler, self._answer)

    async def serve(self, listeners: Sequence[trio.abc.Listener[Any]]) -> None:
        """Answer until cancelled. Closes the listeners."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._scheduler.run)
            for listener in listeners:
                nursery.start_soon(self._connections.run, listener)

    async def _answer(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(DEADLINE):
            line = self._line(await self._asked_untrusted(stream))
            if line is None:
                self._counters["haproxy_checks_unanswered"] += 1
                return
            self._counters["haproxy_checks_answered"] += 1
            await stream.send_all(line)

    async def _asked_untrusted(self, stream: trio.SocketStream) -> str:
        """The name that the caller sends; empty if it sends none."""
        line = bytearray()
        with trio.move_on_after(SILENCE) as silence:
            while b"\n" not in line and len(line) < MAX_LINE and (data := await stream.receive_some(MAX_LINE)):
                line += data
                silence.deadline = trio.current_time() + DEADLINE  # a line has begun: its end must come
        return line.partition(b"\n")[0].decode("utf-8", "replace").strip()

    def _line(self, name: str) -> bytes | None:
        view = self._view()
        if view is None or view.pool is None:
            return None
        name = name or view.pool.observer
        service = view.service(ALL_SERVICES).derived(haproxy.service_of).get(name)
        if service is None:
            return haproxy.UNKNOWN
        return view.service(service).derived(haproxy.answers).get(name, haproxy.UNKNOWN)
