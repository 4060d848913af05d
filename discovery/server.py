"""The discovery endpoint. The sidecar tells it of changes and events; callers read it over HTTP.

    server = DiscoveryServer(commands=sidecar, process=process, wall_offset=offset, access=Access())
    server.pool_changed()                      # cheap, synchronous, at any time
    server.publish_events(node.take_events())
    await nursery.start(server.serve, listeners)
    server.close()                             # blocked queries are answered, streams end, serve() returns

It shares a loop with gossip, and is built so that gossip keeps its time: callers are heard, answered and woken in
small batches (streams.py, fair_scheduler.py, watchers.py), answers are encoded once per change (view.py), and making
and taking in new views costs at most a fifth of the loop, and nothing while nobody is connected.
"""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final

import trio

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.api.openapi import document
from rumormill.discovery.api.router import Router
from rumormill.discovery.api.routes import ROUTES, contents
from rumormill.discovery.commands import Commands
from rumormill.discovery.http.access import Access, AccessControl
from rumormill.discovery.http.connection import GONE, Connection, ServerState, linger
from rumormill.discovery.http.connection_slots import FULL, Capacity, Places
from rumormill.discovery.http.fair_scheduler import FairScheduler
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request import Request
from rumormill.discovery.http.response import CONNECTION_CLOSE, Response, prepare, prepare_json
from rumormill.discovery.http.streams import ClientStream, EpollMux
from rumormill.membership.view import Event

Listener = trio.abc.Listener[Any]

FOLD_SHARE: Final = 0.2
"""Of the loop's time, at most, for taking in views while they come in a storm (a thousand members joining)."""
CLOSE_GRACE: Final = 1.0
"""Seconds for callers to take their last answers."""
ACCEPT_PAUSE: Final = 0.1
HEARING: Final = 0.05
"""Seconds in which a newcomer can send its request before its place may be given to the next."""
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class DiscoveryServer:
    """One run of a sidecar as callers see it. `wall_offset` is wall clock minus the node's clock, in seconds."""

    def __init__(
        self,
        *,
        commands: Commands,
        process: str,
        wall_offset: float,
        access: Access | None = None,
        sealed: bool = True,
        limits: Limits | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`process` names this run in headers (letters, digits, '-', '.'); ValueError if it cannot. Where gossip is not
        `sealed`, every answer says so."""
        limits, access = limits or Limits(), access or Access()
        counters: Counter[str] = Counter()
        self._capacity = Capacity(Places.here(limits), counters)
        self._always = b"" if sealed else b"X-Rumormill-Seal: plaintext\r\n"
        self._desk = ApiContext(
            commands=commands,
            process=process,
            wall_offset=wall_offset,
            limits=limits,
            capacity=self._capacity,
            rng=rng or random.Random(),
            openapi=prepare(document(ROUTES), etag=f'W/"{process}-openapi"'),
            contents=prepare_json(contents(), etag=f'W/"{process}-contents"'),
            confidential=access.local or access.encrypted,
        )
        turns = FairScheduler(limits.batch)
        board = EpollMux(turns, limits.batch)
        self._router = Router(AccessControl(access))
        self._endpoint = ServerState(self._respond, limits, self._capacity, turns, board, counters)
        self._limits = limits
        self._turning_away = 0
        self._unfolded = False
        """Whether the pool has changed since its view was last taken in."""
        self._fold_again = 0.0
        self._storm = trio.Event()
        self._called = trio.Event()
        """Somebody has connected since this event was made."""
        self._closing = trio.Event()
        self._tick()

    @property
    def counters(self) -> Mapping[str, int]:
        """Requests, refusals and connections since the start."""
        return self._endpoint.counters

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._endpoint.open)

    @property
    def waiting(self) -> int:
        """Callers that wait for a change: blocked queries and event streams."""
        return len(self._desk.room)

    def pool_changed(self) -> None:
        """Take in what the sidecar now holds of the pool, and wake who waits for it. In a storm of changes, and while
        nobody is connected, only what comes of them counts."""
        self._unfolded = True
        if self.connections:
            self._take_in()

    def publish_events(self, events: Sequence[Event]) -> None:
        """Append to the event log, and wake who waits for it."""
        if events:
            self._desk.events.extend(events)
            self._desk.room.check()

    def admit(self, access: Access) -> None:
        """Ask this of callers from the next request on."""
        self._router.gate = AccessControl(access)

    def set_wall_offset(self, wall_offset: float) -> None:
        """Somebody has set the wall clock: tell times by it from now on."""
        self._desk.set_wall_offset(wall_offset)

    def close(self) -> None:
        """End: no new callers, blocked queries are answered as things stand, streams stop; :meth:`serve` returns."""
        self._endpoint.closing = True
        self._desk.room.close()
        self._closing.set()

    async def serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer callers until :meth:`close` or cancellation. Closes the listeners and every connection."""
        self._capacity.places = Places.here(self._limits)
        try:
            async with trio.open_nursery() as helpers:
                for helper in (
                    self._desk.room.run,
                    self._endpoint.turns.run,
                    self._endpoint.board.run,
                    self._sweep,
                    self._fold_storms,
                ):
                    helpers.start_soon(helper)
                await self._serve_connections(listeners, task_status)
                helpers.cancel_scope.cancel()
        finally:
            self._endpoint.board.close()

    async def _respond(self, request: Request, stream: ClientStream) -> Response:
        route, query = self._router.find(request)
        return await route.handler(self._desk, RequestContext(request, query, stream))

    async def _serve_connections(self, listeners: Sequence[Listener], task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as acceptors:
                for listener in listeners:
                    acceptors.start_soon(self._accept, listener, connections)
                task_status.started()
                await self._closing.wait()
                acceptors.cancel_scope.cancel()
            for idle in list(self._endpoint.idle):
                idle.end()
            connections.cancel_scope.deadline = trio.current_time() + CLOSE_GRACE

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    # A caller that has gone again already (ECONNABORTED and the like) is no event at all.
                    if error.errno in EXHAUSTED:
                        self._capacity.refused("accepts_failed", time.monotonic())
                        self._displace()
                        await trio.sleep(ACCEPT_PAUSE)
                    continue
                self._endpoint.counters["connections"] += 1
                if not self.connections:
                    self._tick()
                self._called.set()
                if not await self._make_room():
                    connections.start_soon(self._turn_away, stream)
                    continue
                connections.start_soon(Connection(self._endpoint, stream).serve)
                self._take_in()

    async def _make_room(self) -> bool:
        """Have a place for a newcomer: the longest idle connection's, where all are taken. False if nobody is idle.

        Who has only just connected is not idle yet; those behind wait in the kernel's queue meanwhile.
        """
        while self.connections >= self._capacity.places.connections:
            oldest = next(iter(self._endpoint.idle), None)
            if oldest is None:
                self._capacity.refused("connections_refused", time.monotonic())
                return False
            if trio.current_time() >= oldest.opened + HEARING:
                self._displace()
                return True
            await trio.sleep_until(oldest.opened + HEARING)
        return True

    def _displace(self) -> None:
        """End the longest idle connection, if one is idle."""
        for idle in self._endpoint.idle:
            del self._endpoint.idle[idle]
            idle.end()
            self._endpoint.counters["connections_displaced"] += 1
            return

    async def _turn_away(self, stream: trio.abc.Stream) -> None:
        """Say 503 without understanding a byte; beyond some at a time, even that is too much."""
        if self._turning_away < self._capacity.places.turned_away:
            self._turning_away += 1
            try:
                answer = FULL.wire(self._endpoint.date, CONNECTION_CLOSE, head_only=False)
                await linger(stream, answer, self._limits.linger)
            except GONE:
                self._endpoint.counters["connections_broken"] += 1
            finally:
                self._turning_away -= 1
        await trio.aclose_forcefully(stream)

    async def _sweep(self) -> None:
        """End what is overdue. One task for all deadlines: setting one costs a request nothing. While nobody is
        connected it sleeps."""
        while True:
            self._tick()
            now = self._endpoint.now
            for connection in [connection for connection in self._endpoint.open if connection.deadline < now]:
                connection.end(overdue=True)
                self._endpoint.counters["connections_overdue"] += 1
            if not self.connections:
                await self._called.wait()
                self._called = trio.Event()
            await trio.sleep(self._limits.sweep)

    def _tick(self) -> None:
        self._endpoint.now = time.monotonic()
        self._endpoint.date = f"Date: {formatdate(usegmt=True)}\r\n".encode() + self._always

    async def _fold_storms(self) -> None:
        """Take in the newest view of a storm, each time its share of the loop has come round again."""
        while True:
            await self._storm.wait()
            await trio.sleep(max(self._fold_again - time.perf_counter(), 0))
            self._storm = trio.Event()
            self._take_in()

    def _take_in(self) -> None:
        """Show callers the newest view, now or when it is the turn of views again."""
        begin = time.perf_counter()
        if not self._unfolded:
            return
        if begin < self._fold_again:
            self._storm.set()
            return
        self._unfolded = False
        self._desk.view.update(self._desk.commands.view())
        self._desk.room.check()
        end = time.perf_counter()
        self._fold_again = end + (end - begin) * (1 / FOLD_SHARE - 1)
