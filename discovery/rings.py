"""The ring of one service as the endpoint keeps it: built once for all who ask, and never at gossip's expense."""

from __future__ import annotations

import trio

from rumormill.discovery.desk import Desk
from rumormill.discovery.response import refuse
from rumormill.discovery.view import ALL_SERVICES, ServiceView
from rumormill.ring.routing import Routing

BUILT_HERE = 32
"""A ring of so few workers is built on the spot (about 3 ms); a larger one in a thread, and gossip goes on."""


def only_service(desk: Desk) -> str:
    """A key has owners within one service; where there are several, the caller must say which."""
    names = desk.view.names()
    if len(names) > 1:
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise refuse(400, f"there are {len(names)} services here", f"name one of them as the service: {shown}")
    return names[0] if names else ALL_SERVICES


async def routing_of(desk: Desk, service: str) -> tuple[ServiceView, Routing]:
    """A service's ring, and the view that it belongs to; built by one caller for all who wait for it."""
    while True:
        view = desk.view.service(service)
        if view.routing is not None:
            return view, view.routing
        if len(view.workers) <= BUILT_HERE:
            routing = view.build_routing()
            view.adopt(routing)
            return view, routing
        building = desk.ring_building.get(service)
        if building is not None:
            await building.wait()
            continue
        return view, await _build_in_thread(desk, view)


async def _build_in_thread(desk: Desk, view: ServiceView) -> Routing:
    built = desk.ring_building[view.service] = trio.Event()
    try:
        routing = await trio.to_thread.run_sync(view.build_routing)
    finally:
        del desk.ring_building[view.service]
        built.set()
    desk.view.service(view.service).adopt(routing)
    return routing
