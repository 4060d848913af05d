"""One function per route: it takes the shared context and a checked request, and returns an answer. See routes.py."""

from __future__ import annotations

import trio
from msgspec import UNSET

from rumormill.discovery.api.context import EVENTS_TOPIC, ApiContext, RequestContext
from rumormill.discovery.api.ring_cache import resolve_service, routing_for
from rumormill.discovery.commands import CommandRejected
from rumormill.discovery.formats import plain_text
from rumormill.discovery.http.response import EventStream, Response, Send, prepare, prepare_json, refuse
from rumormill.discovery.schema.answers import (
    DrainAnswer,
    HealthAnswer,
    LeaveAnswer,
    LookupAnswer,
    ReloadAnswer,
    WeightAnswer,
)
from rumormill.discovery.schema.query_params import (
    AnyQuery,
    DrainQuery,
    EventsQuery,
    LookupQuery,
    NoQuery,
    PoolQuery,
    ServiceQuery,
    WeightQuery,
    WorkersQuery,
)
from rumormill.discovery.service_view import Representation

STREAM_START = b"retry: 1000\n\n"
KEEP_ALIVE = b": still here\n\n"
OK = prepare_json(HealthAnswer(ok=True, why=""))


async def workers(api: ApiContext, call: RequestContext[WorkersQuery]) -> Response:
    query = call.query
    api.require_pool()
    if query.format != "json":
        api.require_settled()
    if query.format in api.disabled_formats:
        raise refuse(404, f"the format {query.format!r} is turned off here", "start this sidecar without disabling it")
    if query.index is not UNSET:
        await api.block_until_change(call, query.service, index=query.index, process=query.process, wait=query.wait)
    view = api.view.service(query.service)
    if query.format == "text":
        return view.derived(plain_text.url_list, ready=query.ready)
    return view.response(Representation.READY if query.ready else Representation.WORKERS)


async def pool(api: ApiContext, call: RequestContext[PoolQuery]) -> Response:
    query = call.query
    api.require_pool()
    if query.index is not UNSET:
        await api.block_until_change(call, query.service, index=query.index, process=query.process, wait=query.wait)
    return api.view.service(query.service).response(Representation.POOL)


async def watch(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    """A snapshot, then each change. A caller slower than the changes skips to the newest."""
    api.require_pool()
    service = call.query.service
    first = api.view.service(service)

    async def follow(send: Send) -> None:
        shown = first.index
        changed = True
        while changed:
            with trio.move_on_after(api.limits.keep_alive) as quiet:
                changed = await api.watchers.wait_for_change(service, shown)
            if quiet.cancelled_caught:
                await send(KEEP_ALIVE)
            elif changed:
                now = api.view.service(service)
                shown = now.index
                await send(now.response(Representation.CHANGE).body)

    return EventStream(STREAM_START + first.response(Representation.SNAPSHOT).body, follow)


async def lookup(api: ApiContext, call: RequestContext[LookupQuery]) -> Response:
    api.require_pool()
    query = call.query
    view, routing = await routing_for(api, resolve_service(api, query.service), allow_stale=True)
    owners = view.owners(routing, query.key, query.n)
    return prepare_json(LookupAnswer(query.key, routing.digest, owners, view.unroutable))


async def members(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return api.members.get()


async def status(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return api.status.get()


async def metrics(api: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    return api.metrics.get()


async def events(api: ApiContext, call: RequestContext[EventsQuery]) -> Response:
    query = call.query
    await api.block_until_change(call, EVENTS_TOPIC, index=query.since, process=query.process, wait=query.wait)
    return api.events.after(query.since if api.is_own_index(query.process) else 0)


async def drain(api: ApiContext, call: RequestContext[DrainQuery]) -> Response:
    api.commands.drain(restart=call.query.restart)
    api.status.invalidate()
    return prepare_json(DrainAnswer(draining=True))


async def undrain(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    api.commands.undrain()
    api.status.invalidate()
    if api.commands.status().draining:
        raise refuse(
            409, "this sidecar is leaving the pool and cannot return to work", "start it again after it has left"
        )
    return prepare_json(DrainAnswer(draining=False))


async def weight(api: ApiContext, call: RequestContext[WeightQuery]) -> Response:
    try:
        api.commands.set_weight(call.query.weight)
    except CommandRejected as rejected:
        raise refuse(409, str(rejected), rejected.hint) from None
    api.status.invalidate()
    return prepare_json(WeightAnswer(weight=call.query.weight))


async def leave(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    api.commands.leave()
    api.status.invalidate()
    return prepare_json(LeaveAnswer(leaving=True), status=202)


async def reload(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    api.commands.reload()
    return prepare_json(ReloadAnswer(reloading=True), status=202)


async def record(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    try:
        return prepare(api.commands.record(), media="application/vnd.msgpack")
    except CommandRejected as rejected:
        raise refuse(409, str(rejected), rejected.hint) from None


async def livez(_api: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    """An answer is the proof: this runs on the loop that gossips."""
    return OK


async def readyz(api: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    why = api.commands.unready()
    return OK if why is None else prepare_json(HealthAnswer(ok=False, why=why), status=503)


async def worker_livez(api: ApiContext, _call: RequestContext[AnyQuery]) -> Response:
    """Silence about new work is no reason for a restart: this fails much later than readyz, and for stalls only."""
    why = api.commands.worker_restart_reason()
    return OK if why is None else prepare_json(HealthAnswer(ok=False, why=why), status=503)


async def openapi(api: ApiContext, _call: RequestContext[NoQuery]) -> Response:
    return api.documents.openapi
