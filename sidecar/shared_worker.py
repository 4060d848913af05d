"""Whether another member announces our worker as its own. The worker then gets the load of both.

Callers try one URL once per request and count their load by URL, but keys are assigned by member: the ring gives such a
worker the keys of both members. Each of them reports it in its log and status. `rumormill members` shows it at any
sidecar.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from rumormill.gossip import Node
from rumormill.membership.record import InstanceId
from rumormill.membership.view import Member

POLL_SECONDS = 5.0
"""Seconds between two checks. A smaller value builds the view of the pool more often, for something that seldom
changes."""


def members_sharing_worker(instance: InstanceId, members: tuple[Member, ...]) -> tuple[str, ...]:
    """The sorted names of the other members with the same service and URL as the member with this instance.

    An earlier run of the same name does not count: it is about to go.
    """
    own = next((member for member in members if member.instance == instance), None)
    if own is None:
        return ()
    others = (m for m in members if m.liveness.present and not m.pending and m.name != own.name)
    return tuple(sorted(m.name for m in others if (m.service, m.url) == (own.service, own.url)))


class SharedWorkerWatcher:
    """Checks periodically. ``on_change`` gets the names of the other members, and an empty tuple when sharing ends."""

    def __init__(self, node: Node, on_change: Callable[[tuple[str, ...]], None]) -> None:
        self._node = node
        self._on_change = on_change
        self._seen_edition: object = None
        self._sharing: tuple[str, ...] = ()

    async def run(self) -> None:
        """Check forever."""
        while True:
            await trio.sleep(POLL_SECONDS)
            self.check()

    def check(self) -> None:
        """Check now, if the pool has changed since the last time."""
        if self._node.view_version == self._seen_edition:
            return
        self._seen_edition = self._node.view_version
        found = members_sharing_worker(self._node.instance, self._node.view.members)
        if found != self._sharing:
            self._sharing = found
            self._on_change(found)
