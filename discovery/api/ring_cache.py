"""The ring of one service as the endpoint keeps it: built once for all who ask, and never at gossip's expense."""

from __future__ import annotations

from collections.abc import Generator

import trio

from rumormill.discovery.api.context import ApiContext
from rumormill.discovery.http.response import refuse
from rumormill.discovery.view import ALL_SERVICES, ServiceView
from rumormill.ring.routing import Routing

BUILT_HERE = 32
"""A ring of so few workers is built on the spot (about 3 ms); a larger one in pieces, and gossip goes on."""


def only_service(desk: ApiContext) -> str:
    """A key has owners within one service; where there are several, the caller must say which."""
    names = desk.view.names()
    if len(names) > 1:
        raise refuse(400, f"there are {len(names)} services here", f"name one of them as the service: {_listed(names)}")
    return names[0] if names else ALL_SERVICES


def known_service(desk: ApiContext, named: str) -> str:
    """The service to look keys up in. Raises :class:`Refused`: 404 for one that never had a worker here, and what
    :func:`only_service` does where none is named."""
    if not named:
        return only_service(desk)
    if not desk.view.knows(named):
        names = desk.view.names()
        there = f"there are {_listed(names)}" if names else "no service has a worker here yet"
        raise refuse(404, f"there is no service {named!r} here", there)
    return named


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


async def routing_of(desk: ApiContext, service: str, *, or_former: bool = False) -> tuple[ServiceView, Routing]:
    """A service's ring, and the view that it belongs to; built by one caller for all who wait for it.

    With ``or_former`` nobody else waits where there is a ring of before: only its digest tells them.
    """
    while True:
        view = desk.view.service(service)
        if view.routing is not None:
            return view, view.routing
        if len(view.workers) <= BUILT_HERE:
            routing = view.build_routing()
            view.adopt(routing)
            return view, routing
        building = desk.ring_building.get(service)
        if building is None:
            return view, await _build_in_pieces(desk, view)
        if or_former and view.former_routing is not None:
            return view, view.former_routing
        await building.wait()


async def _build_in_pieces(desk: ApiContext, view: ServiceView) -> Routing:
    built = desk.ring_building[view.service] = trio.Event()
    try:
        routing = await _advance(view.routing_in_pieces())
    finally:
        del desk.ring_building[view.service]
        built.set()
    desk.view.service(view.service).adopt(routing)
    return routing


async def _advance(pieces: Generator[None, None, Routing]) -> Routing:
    """To its end, everything else having its turn after each piece."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            routing: Routing = end.value
            return routing
        await trio.lowlevel.checkpoint()
