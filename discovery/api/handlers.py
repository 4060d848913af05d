"""One function per route: the desk and a checked call in, an answer out. What each is for stands in routes.py."""

from __future__ import annotations

import trio
from msgspec import UNSET

from rumormill.discovery.api.context import EVENTS, ApiContext, RequestContext
from rumormill.discovery.api.ring_cache import known_service, routing_of
from rumormill.discovery.http.response import EventStream, Response, Send, prepare_json, refuse
from rumormill.discovery.schema.answers import DrainAnswer, HealthAnswer, LeaveAnswer, LookupAnswer, ReloadAnswer
from rumormill.discovery.schema.query_params import (
    AnyQuery,
    EventsQuery,
    LookupQuery,
    NoQuery,
    PoolQuery,
    ServiceQuery,
    WorkersQuery,
)
from rumormill.discovery.view import Representation

STREAM_BEGIN = b"retry: 1000\n\n"
KEEP_ALIVE = b": still here\n\n"
OK = prepare_json(HealthAnswer(ok=True, why=""))


async def workers(desk: ApiContext, call: RequestContext[WorkersQuery]) -> Response:
    query = call.query
    desk.require_pool()
    if query.index is not UNSET:
        await desk.block(call, query.service, index=query.index, process=query.process, wait=query.wait)
    return desk.view.service(query.service).answer(Representation.READY if query.ready else Representation.WORKERS)


async def pool(desk: ApiContext, call: RequestContext[PoolQuery]) -> Response:
    query = call.query
    desk.require_pool()
    if query.index is not UNSET:
        await desk.block(call, query.service, index=query.index, process=query.process, wait=query.wait)
    return desk.view.service(query.service).answer(Representation.POOL)


async def watch(desk: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    """A snapshot, then each change. A caller slower than the changes gets the newest and none between."""
    desk.require_pool()
    service = call.query.service
    first = desk.view.service(service)

    async def follow(send: Send) -> None:
        shown = first.index
        moved = True
        while moved:
            with trio.move_on_after(desk.limits.keep_alive) as quiet:
                moved = await desk.room.moved(service, shown)
            if quiet.cancelled_caught:
                await send(KEEP_ALIVE)
            elif moved:
                now = desk.view.service(service)
                shown = now.index
                await send(now.answer(Representation.CHANGE).body)

    return EventStream(STREAM_BEGIN + first.answer(Representation.SNAPSHOT).body, follow)


async def lookup(desk: ApiContext, call: RequestContext[LookupQuery]) -> Response:
    desk.require_pool()
    query = call.query
    view, routing = await routing_of(desk, known_service(desk, query.service), or_former=True)
    owners = view.owners(routing, query.key, query.n)
    return prepare_json(LookupAnswer(query.key, routing.digest, owners, view.unroutable))


async def members(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return desk.members.get()


async def status(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return desk.status.get()


async def metrics(desk: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    return desk.metrics.get()


async def events(desk: ApiContext, call: RequestContext[EventsQuery]) -> Response:
    query = call.query
    await desk.block(call, EVENTS, index=query.since, process=query.process, wait=query.wait)
    return desk.events.after(query.since if desk.counted_here(query.process) else 0)


async def drain(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    desk.commands.drain()
    desk.status.forget()
    return prepare_json(DrainAnswer(draining=True))


async def undrain(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    desk.commands.undrain()
    desk.status.forget()
    if desk.commands.status().draining:
        raise refuse(409, "this sidecar is leaving the pool, and that is for good", "start it again once it has left")
    return prepare_json(DrainAnswer(draining=False))


async def leave(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    desk.commands.leave()
    desk.status.forget()
    return prepare_json(LeaveAnswer(leaving=True), status=202)


async def reload(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    desk.commands.reload()
    return prepare_json(ReloadAnswer(reloading=True), status=202)


async def livez(_desk: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    """That it answers is the proof: it runs on the very loop that gossips."""
    return OK


async def readyz(desk: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    why = desk.commands.unready()
    return OK if why is None else prepare_json(HealthAnswer(ok=False, why=why), status=503)


async def openapi(desk: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return desk.openapi


async def index(desk: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    return desk.contents
