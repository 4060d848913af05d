"""Whether another member names our worker as its own: then callers send it the load of two.

Callers try one URL once for a request and count their load by URL, but keys go by member: the ring gives such a worker
the keys of both. The members concerned each say so, in their log and status; `rumormill members` says it anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from rumormill.gossip import Node
from rumormill.membership.view import Member

LOOK_EVERY = 5.0
"""Seconds between two looks. Less makes the view of the pool more often, for something that seldom changes."""


def sharing(me: bytes, members: tuple[Member, ...]) -> tuple[str, ...]:
    """Names of the other members that serve the same service at the same URL as the one with this instance, sorted.

    A former life of its own name is none: it is on its way out.
    """
    own = next((member for member in members if member.instance == me), None)
    if own is None:
        return ()
    others = (m for m in members if m.liveness.present and not m.pending and m.name != own.name)
    return tuple(sorted(m.name for m in others if (m.service, m.url) == (own.service, own.url)))


class SharedWorker:
    """Looks now and then, and tells each change: the names of the others, none when it is over."""

    def __init__(self, node: Node, on_change: Callable[[tuple[str, ...]], None]) -> None:
        self._node = node
        self._on_change = on_change
        self._seen_at: object = None
        self._with: tuple[str, ...] = ()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await trio.sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Look now, if anything has changed since the last time."""
        if self._node.view_version == self._seen_at:
            return
        self._seen_at = self._node.view_version
        found = sharing(self._node.instance, self._node.view.members)
        if found != self._with:
            self._with = found
            self._on_change(found)
