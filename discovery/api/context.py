"""What the routes share: the view, the event log, the sidecar's commands, and how a query blocks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import trio
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from rumormill.discovery.api.event_log import EventLog
from rumormill.discovery.api.metrics import EndpointMeasurements, prepare_metrics
from rumormill.discovery.api.query_parsing import parse_wait
from rumormill.discovery.api.watchers import Watchers
from rumormill.discovery.commands import Commands
from rumormill.discovery.http.connection_slots import RETRY_AFTER, ConnectionSlots
from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.request import Request
from rumormill.discovery.http.request_metrics import RequestMetrics
from rumormill.discovery.http.response import PreparedResponse, prepare_json, refuse
from rumormill.discovery.http.streams import ClientStream
from rumormill.discovery.schema.answers import MemberRow, MembersAnswer
from rumormill.discovery.service_view import connectivity_headers
from rumormill.discovery.view import RoutingView
from rumormill.discovery.workers import (
    format_address,
    liveness_word,
    readiness_word,
    timestamp,
    unready_reason,
)
from rumormill.membership.view import Member, MemberDetail, PoolView

EVENTS_TOPIC: Final = "\n"
"""The topic of the event log. It is unprintable, so no service can have this name."""
LOADS_TOPIC: Final = "\v"
"""The topic of the loads of all services."""
JITTER: Final = 1 / 16
"""The largest part of a wait that is added at random, so that callers that started together drift apart."""
RATE_LIMITED_SHARE: Final = 0.05
"""The largest part of the loop's time for answers that no change invalidates."""

Q_co = TypeVar("Q_co", covariant=True)


@dataclass(slots=True)  # not frozen: that would cost a microsecond a request
class RequestContext(Generic[Q_co]):
    """One request with its checked parameters."""

    request: Request
    query: Q_co
    stream: ClientStream
    """Tells when the caller disconnects while it waits."""


class RateLimitedCache:
    """An answer that no event invalidates, and that is too costly to make for every request.

    It is made so seldom that it takes at most a twentieth of the loop's time: a few thousand times a second for three
    members, every other second for ten thousand.
    """

    def __init__(self, make: Callable[[], PreparedResponse]) -> None:
        self._make = make
        self._cached: PreparedResponse | None = None
        self._valid_until = 0.0

    def get(self) -> PreparedResponse:
        now = time.perf_counter()
        if self._cached is None or now >= self._valid_until:
            self._cached = self._make()
            end = time.perf_counter()
            self._valid_until = end + (end - now) / RATE_LIMITED_SHARE
        return self._cached

    def invalidate(self) -> None:
        """Make the answer anew for the next request."""
        self._cached = None


class HttpResources(NamedTuple):
    """What the routes share with the connections."""

    limits: Limits
    slots: ConnectionSlots
    requests: RequestMetrics


class FixedDocuments(NamedTuple):
    """Answers that never change. The server makes them: they list the routes, which import this module."""

    openapi: PreparedResponse
    contents: PreparedResponse


class ApiContext:
    """Everything the routes answer from."""

    def __init__(
        self,
        *,
        commands: Commands,
        process: str,
        wall_offset: float,
        http: HttpResources,
        rng: random.Random,
        documents: FixedDocuments,
        confidential: bool = True,
        disabled_formats: Collection[str] = (),
    ) -> None:
        self.disabled_formats = frozenset(disabled_formats)
        self.confidential = confidential
        """Whether requests reach this endpoint without crossing a network unencrypted."""
        self.commands = commands
        self.process = process
        self.limits = http.limits
        self.slots = http.slots
        self.view = RoutingView(process=process, wall_offset=wall_offset)
        self.events = EventLog(process=process, wall_offset=wall_offset)
        self.watchers = Watchers(self.index, http.limits.batch)
        self.members = RateLimitedCache(self._prepare_members)
        self.status = RateLimitedCache(lambda: prepare_json(commands.status()))
        self.requests = http.requests
        self.metrics = RateLimitedCache(self._prepare_metrics)
        self.documents = documents
        self.rings_in_progress: dict[str, trio.Event] = {}
        """The services whose ring is being built now, each with the event of its end."""
        self._rng = rng
        self._settled = False
        self._started_at = time.monotonic()
        self._met_at: float | None = None

    def set_wall_offset(self, wall_offset: float) -> None:
        """Future events carry the new time. Past events keep the time that the clock showed then."""
        self.view.set_wall_offset(wall_offset)
        self.events.wall_offset = wall_offset
        self.members.invalidate()

    def index(self, topic: str) -> int:
        """The present index of a topic: one service, all services, the loads, or the event log."""
        if topic == LOADS_TOPIC:
            return self.view.load_index
        return self.events.index if topic == EVENTS_TOPIC else self.view.index(topic)

    def refresh_loads(self) -> None:
        """Show the loads that are known now, and wake those who wait for them."""
        activity = self.commands.activity
        if self.view.pool is not None and self.view.set_loads(activity.loads(), activity.now()):
            self.watchers.notify()

    def is_own_index(self, process: str | UnsetType) -> bool:
        """Whether an index of this process is meant: the caller names this process, or none."""
        return process is UNSET or process == self.process

    def require_pool(self) -> PoolView:
        """The pool as it was last published. Raises :class:`RequestRejected` (503) before the first time."""
        if self.view.pool is None:
            raise refuse(503, "this sidecar is starting", "ask again in a moment", headers=(RETRY_AFTER,))
        return self.view.pool

    @property
    def settled(self) -> bool:
        """Whether this sidecar has had the time to learn of its pool.

        Programs that believe one sidecar must not take the first moments of a restarted one for an empty pool. It is
        settled a moment after it has found another member, or after it has found none for longer.
        """
        if not self._settled and self.view.pool is not None:
            now, limits = time.monotonic(), self.limits
            pool = self.view.pool
            if self._met_at is None and any(m.liveness.present and m.name != pool.observer for m in pool.members):
                self._met_at = now
            met = self._met_at is not None and now >= self._met_at + limits.settle
            self._settled = met or now >= self._started_at + limits.settle_alone
        return self._settled

    def require_settled(self) -> PoolView:
        """:meth:`require_pool` for the formats of others. Raises :class:`RequestRejected` (503) until settled."""
        pool = self.require_pool()
        if not self.settled:
            raise refuse(503, "this sidecar is learning of its pool", "ask again in a moment", headers=(RETRY_AFTER,))
        return pool

    async def block_until_change(
        self, call: RequestContext[object], topic: str, *, index: int, process: str | UnsetType, wait: str
    ) -> None:
        """Return when the topic has moved past `index`, the wait is over, or the endpoint closes.

        An index of this process that has passed returns at once. An index of another process means nothing here: the
        caller may already have this state from another sidecar behind the same address. Such a query waits for the
        next change, but only briefly, because the caller may also have missed one. Raises :class:`RequestRejected`
        (503) when all slots for waiting callers are taken.
        """
        seconds, present = parse_wait(wait, self.limits), self.index(topic)
        ours = self.is_own_index(process) and index <= present
        if seconds == 0 or (ours and index < present):
            return
        if ours:
            seconds += self._rng.uniform(0, seconds * JITTER)
        else:
            seconds = min(seconds, self._rng.uniform(self.limits.moment / 2, self.limits.moment))
        call.request.waited = True
        with self.slots.wait(time.monotonic()), trio.move_on_after(seconds) as scope:
            call.stream.cancel_on_disconnect(scope)
            try:
                await self.watchers.wait_for_change(topic, present)
            finally:
                call.stream.cancel_on_disconnect(None)

    def _prepare_metrics(self) -> PreparedResponse:
        endpoint = EndpointMeasurements(
            requests=self.requests,
            watchers=self.slots.waiting,
            routing_changes=self.view.routing_changes,
            scale_out=self.view.scale_out,
        )
        return prepare_metrics(self.commands.status(), self.view.pool, self.commands.measurements(), endpoint)

    def _prepare_members(self) -> PreparedResponse:
        pool = self.require_pool()
        details = self.commands.details()
        rows = [self._row(member, details.get(member.instance)) for member in pool.members]
        if (unready := self.commands.unready()) is not None:  # the reason is known for this worker only
            rows = [replace(row, why=unready) if self._is_own_row(row, pool) else row for row in rows]
        connectivity = pool.connectivity
        answer = MembersAnswer(
            cluster=pool.cluster,
            observer=pool.observer,
            process=self.process,
            isolated=pool.isolated,
            members=rows,
            connectivity=connectivity.word,
            connectivity_why=connectivity.words,
        )
        return prepare_json(answer, headers=connectivity_headers(connectivity))

    def _is_own_row(self, row: MemberRow, pool: PoolView) -> bool:
        return row.name == pool.observer and row.liveness == "alive" and not row.pending

    def _row(self, member: Member, detail: MemberDetail | None) -> MemberRow:
        return MemberRow(
            name=member.name,
            generation=member.generation,
            instance=member.instance.hex(),
            incarnation=member.incarnation,
            address=format_address(member.address),
            service=member.service,
            url=member.url,
            zone=member.zone,
            release=member.release,
            weight=member.weight / 1000,
            liveness=liveness_word(member.liveness),
            readiness=readiness_word(member.readiness),
            pending=member.pending,
            routable=member.routable,
            since=timestamp(member.since + self.view.wall_offset),
            why=member.why,
            misses=detail.misses if detail else 0,
            monitored=detail.monitored if detail else False,
            monitors=list(detail.monitors) if detail else [],
            last_heard=detail.last_heard if detail else None,
            rtt=detail.rtt if detail else None,
            tags=dict(member.tags),
            probation=detail.probation if detail else None,
            period=member.period,
            unready=unready_reason(member, detail.probation if detail else None),
            endpoint=format_address((member.address[0], member.endpoint)) if member.endpoint else "",
            wire=member.wire,
        )
