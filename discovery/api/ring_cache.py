"""The ring of one service: built once for all callers, in steps that do not delay gossip."""

from __future__ import annotations

from collections.abc import Generator

import trio

from rumormill.discovery.api.context import ApiContext
from rumormill.discovery.http.response import refuse
from rumormill.discovery.service_view import ALL_SERVICES, ServiceView
from rumormill.ring.routing import Routing

SYNC_BUILD_MAX_WORKERS = 32
"""A ring of up to this many workers is built at once (about 3 ms). A larger one is built in steps."""


def require_single_service(api: ApiContext) -> str:
    """The service of a caller that names none. Raises :class:`RequestRejected` (400) if there are several."""
    names = api.view.names()
    if len(names) > 1:
        hint = f"name one of them as the service: {_join_names(names)}"
        raise refuse(400, f"there are {len(names)} services here", hint)
    return names[0] if names else ALL_SERVICES


def resolve_service(api: ApiContext, named: str) -> str:
    """The service to look keys up in. Raises :class:`RequestRejected`: 404 for one that never had a worker here, and as
    :func:`require_single_service` if none is named."""
    if not named:
        return require_single_service(api)
    if not api.view.knows(named):
        names = api.view.names()
        there = f"there are {_join_names(names)}" if names else "no service has a worker here yet"
        raise refuse(404, f"there is no service {named!r} here", there)
    return named


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


async def routing_for(api: ApiContext, service: str, *, allow_stale: bool = False) -> tuple[ServiceView, Routing]:
    """A service's ring, and the view that it belongs to; built by one caller for all who wait for it.

    With ``or_former`` nobody else waits where there is a ring of before: only its digest tells them.
    """
    while True:
        view = api.view.service(service)
        if view.routing is not None:
            return view, view.routing
        if len(view.workers) <= SYNC_BUILD_MAX_WORKERS:
            routing = view.build_routing()
            view.set_routing(routing)
            return view, routing
        building = api.rings_in_progress.get(service)
        if building is None:
            return view, await _build_in_pieces(api, view)
        if allow_stale and view.latest_routing is not None:
            return view, view.latest_routing
        await building.wait()


async def _build_in_pieces(api: ApiContext, view: ServiceView) -> Routing:
    built = api.rings_in_progress[view.service] = trio.Event()
    try:
        routing = await _run_to_end(view.build_routing_incrementally())
    finally:
        del api.rings_in_progress[view.service]
        built.set()
    api.view.service(view.service).set_routing(routing)
    return routing


async def _run_to_end(pieces: Generator[None, None, Routing]) -> Routing:
    """Run a generator to its end. Other tasks run after each step."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            routing: Routing = end.value
            return routing
        await trio.lowlevel.checkpoint()
