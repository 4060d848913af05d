"""The discovery endpoint. The sidecar tells it of changes and events; callers read it over HTTP.

    server = DiscoveryServer(commands=sidecar, process=process, wall_offset=offset, access=Access())
    server.pool_changed()                      # cheap, synchronous, at any time
    server.publish_events(node.take_events())
    await nursery.start(server.serve, listeners)
    server.close()                             # blocked queries are answered, streams end, serve() returns

It shares a loop with gossip, and is built to keep gossip on time: callers are read, answered and woken in
small batches (streams.py, fair_scheduler.py, watchers.py), answers are encoded once per change (view.py), and making
and taking in new views costs at most a fifth of the loop, and nothing while nobody is connected.
"""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final

import trio

from rumormill.discovery.api.context import ApiContext, FixedDocuments, HttpResources, RequestContext
from rumormill.discovery.api.openapi import openapi_document
from rumormill.discovery.api.router import Router
from rumormill.discovery.api.routes import enabled_routes, index_answer
from rumormill.discovery.commands import Commands
from rumormill.discovery.formats import FormatName
from rumormill.discovery.http.access import Access, AccessControl
from rumormill.discovery.http.connection import DISCONNECT_ERRORS, Connection, ServerState, linger
from rumormill.discovery.http.connection_slots import OVERLOADED, ConnectionSlots
from rumormill.discovery.http.fair_scheduler import FairScheduler
from rumormill.discovery.http.limits import Limits, SlotLimits
from rumormill.discovery.http.request import Request
from rumormill.discovery.http.request_metrics import RequestMetrics
from rumormill.discovery.http.response import CONNECTION_CLOSE, Response, prepare, prepare_json
from rumormill.discovery.http.streams import ClientStream, EpollMux
from rumormill.discovery.view import RoutingView
from rumormill.membership.view import Event

Listener = trio.abc.Listener[Any]

VIEW_UPDATE_SHARE: Final = 0.2
"""The largest part of the loop's time for view updates while the pool changes fast (a thousand members joining)."""
LOADS_REFRESH: Final = 0.5
"""Seconds between two looks at the loads. Smaller: callers read more often, and learn no more."""
CLOSE_GRACE: Final = 1.0
"""Seconds for callers to take their last answers."""
ACCEPT_PAUSE: Final = 0.1
FIRST_REQUEST_GRACE: Final = 0.05
"""Seconds for a new caller to send its request before its slot may go to the next caller."""
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
        disabled_formats: Collection[FormatName] = (),
    ) -> None:
        """`process` names this run in headers (letters, digits, '-', '.'); ValueError if it cannot. Where gossip is not
        `sealed`, every answer says so. The formats of other programs are all on but `disabled_formats`."""
        limits, access = limits or Limits(), access or Access()
        counters: Counter[str] = Counter()
        requests = RequestMetrics()
        self._slots = ConnectionSlots(SlotLimits.here(limits), counters)
        self._fixed_headers = b"" if sealed else b"X-Rumormill-Seal: plaintext\r\n"
        routes = enabled_routes(disabled_formats)
        self._api = ApiContext(
            commands=commands,
            process=process,
            wall_offset=wall_offset,
            http=HttpResources(limits, self._slots, requests),
            rng=rng or random.Random(),
            documents=FixedDocuments(
                openapi=prepare(openapi_document(routes), etag=f'W/"{process}-openapi"'),
                contents=prepare_json(index_answer(routes), etag=f'W/"{process}-contents"'),
            ),
            confidential=access.local or access.encrypted,
            disabled_formats=disabled_formats,
        )
        scheduler = FairScheduler(limits.batch)
        mux = EpollMux(scheduler, limits.batch)
        self._router = Router(AccessControl(access), routes)
        self._state = ServerState(
            self._respond, limits, self._slots, scheduler, mux, counters, requests, lambda: self._api.view.revision
        )
        self._limits = limits
        self._rejecting = 0
        self._view_outdated = False
        """Whether the pool has changed since the view was last updated."""
        self._next_view_update = 0.0
        self._update_postponed = trio.Event()
        self._connected = trio.Event()
        """Set by the first connection after this event was made."""
        self._closing = trio.Event()
        self._refresh_clock()

    @property
    def counters(self) -> Mapping[str, int]:
        """Requests, refusals and connections since the start."""
        return self._state.counters

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._state.connections)

    @property
    def waiting(self) -> int:
        """Callers that wait for a change: blocked queries and event streams."""
        return len(self._api.watchers)

    def pool_changed(self) -> None:
        """Update the view from the sidecar's pool, and wake the callers that wait for it.

        Fast changes, and changes while nobody is connected, are coalesced.
        """
        self._view_outdated = True
        if self.connections:
            self._update_view()

    def settled_view(self) -> RoutingView | None:
        """The pool as callers see it, for other listeners; None while this sidecar may not know its pool yet."""
        self._update_view()
        return self._api.view if self._api.settled else None

    def publish_events(self, events: Sequence[Event]) -> None:
        """Append to the event log, and wake the callers that wait for it."""
        if events:
            self._api.events.extend(events)
            self._api.watchers.notify()

    def set_access(self, access: Access) -> None:
        """Apply these access rules from the next request on."""
        self._router.access_control = AccessControl(access)
        self._state.known_answers.clear()

    def set_wall_offset(self, wall_offset: float) -> None:
        """Use a new offset of the wall clock, which has been set."""
        self._api.set_wall_offset(wall_offset)

    def close(self) -> None:
        """Stop: accept no new callers, answer blocked queries, end streams. :meth:`serve` returns."""
        self._state.closing = True
        self._api.watchers.close()
        self._closing.set()

    async def serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer callers until :meth:`close` or cancellation. Closes the listeners and every connection."""
        self._slots.limits = SlotLimits.here(self._limits)
        try:
            async with trio.open_nursery() as helpers:
                for helper in (
                    self._api.watchers.run,
                    self._state.scheduler.run,
                    self._state.mux.run,
                    self._close_overdue,
                    self._run_postponed_updates,
                    self._refresh_loads,
                ):
                    helpers.start_soon(helper)
                await self._serve_connections(listeners, task_status)
                helpers.cancel_scope.cancel()
        finally:
            self._state.mux.close()

    async def _respond(self, request: Request, stream: ClientStream) -> Response:
        route, query = self._router.find(request)
        request.route, request.from_view = route.path, route.from_view
        return await route.handler(self._api, RequestContext(request, query, stream))

    async def _serve_connections(self, listeners: Sequence[Listener], task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as acceptors:
                for listener in listeners:
                    acceptors.start_soon(self._accept, listener, connections)
                task_status.started()
                await self._closing.wait()
                acceptors.cancel_scope.cancel()
            for idle in list(self._state.idle):
                idle.cancel()
            connections.cancel_scope.deadline = trio.current_time() + CLOSE_GRACE

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    # A caller that has already gone (ECONNABORTED and the like) needs no handling.
                    if error.errno in EXHAUSTED:
                        self._slots.refused("accepts_failed", time.monotonic())
                        self._evict_idle()
                        await trio.sleep(ACCEPT_PAUSE)
                    continue
                self._state.counters["connections"] += 1
                if not self.connections:
                    self._refresh_clock()
                    self._api.refresh_loads()
                self._connected.set()
                if not await self._ensure_slot():
                    connections.start_soon(self._reject_overload, stream)
                    continue
                connections.start_soon(Connection(self._state, stream).serve)
                self._update_view()

    async def _ensure_slot(self) -> bool:
        """Ensure a slot for a new caller; end the longest idle connection if all are taken. False if none is idle.

        A connection that has just opened is not idle yet. Further callers wait in the kernel's queue.
        """
        while self.connections >= self._slots.limits.connections:
            oldest = next(iter(self._state.idle), None)
            if oldest is None:
                self._slots.refused("connections_refused", time.monotonic())
                return False
            if trio.current_time() >= oldest.opened_at + FIRST_REQUEST_GRACE:
                self._evict_idle()
                return True
            await trio.sleep_until(oldest.opened_at + FIRST_REQUEST_GRACE)
        return True

    def _evict_idle(self) -> None:
        """End the longest idle connection, if one is idle."""
        for idle in self._state.idle:
            del self._state.idle[idle]
            idle.cancel()
            self._state.counters["connections_displaced"] += 1
            return

    async def _reject_overload(self, stream: trio.abc.Stream) -> None:
        """Answer 503 without reading the request. Beyond a number of these at one time, only close."""
        if self._rejecting < self._slots.limits.rejections:
            self._rejecting += 1
            try:
                answer = OVERLOADED.full(CONNECTION_CLOSE).encode(self._state.date)
                await linger(stream, answer, self._limits.linger)
            except DISCONNECT_ERRORS:
                self._state.counters["connections_broken"] += 1
            finally:
                self._rejecting -= 1
        await trio.aclose_forcefully(stream)

    async def _close_overdue(self) -> None:
        """End overdue connections. One task serves all deadlines, so setting one costs nothing. It sleeps while nobody
        is connected."""
        while True:
            self._refresh_clock()
            now = self._state.now
            for connection in [connection for connection in self._state.connections if connection.deadline < now]:
                connection.cancel(overdue=True)
                self._state.counters["connections_overdue"] += 1
            if not self.connections:
                await self._connected.wait()
                self._connected = trio.Event()
            await trio.sleep(self._limits.sweep)

    def _refresh_clock(self) -> None:
        self._state.now = time.monotonic()
        self._state.date = f"Date: {formatdate(usegmt=True)}\r\n".encode() + self._fixed_headers

    async def _run_postponed_updates(self) -> None:
        """Make postponed view updates, as soon as their share of the loop's time allows."""
        while True:
            await self._update_postponed.wait()
            await trio.sleep(max(self._next_view_update - time.perf_counter(), 0))
            self._update_postponed = trio.Event()
            self._update_view()

    async def _refresh_loads(self) -> None:
        """Show changed loads. Sleeps while nobody is connected."""
        while True:
            if not self.connections:
                await self._connected.wait()
            self._api.refresh_loads()
            await trio.sleep(LOADS_REFRESH)

    def _update_view(self) -> None:
        """Show callers the newest view, now or as soon as updates may take time again."""
        begin = time.perf_counter()
        if not self._view_outdated:
            return
        if begin < self._next_view_update:
            self._update_postponed.set()
            return
        self._view_outdated = False
        self._api.view.update(self._api.commands.view())
        self._api.watchers.notify()
        end = time.perf_counter()
        self._next_view_update = end + (end - begin) * (1 / VIEW_UPDATE_SHARE - 1)
