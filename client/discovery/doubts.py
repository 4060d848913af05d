"""Which workers have failed this client, for their sidecars to look at now. Pure; times in seconds on the pool's clock.

A client often knows first that a worker fails. When it opens a worker's breaker, it says so to the sidecar that it asks
for loads, as the header ``Rumormill-Doubts: ID,...`` with the first half of each worker's instance. That sidecar passes
it on, and the worker's own sidecar probes the worker at once. A doubt is a hint: it is no vote, and decides nothing.
"""

from __future__ import annotations

from typing import Final

from rumormill.ring.worker import Worker

DOUBTS_HEADER: Final = "Rumormill-Doubts"
MAX_DOUBTED: Final = 16
"""Workers in one query; sidecars read no more."""
REPEAT_AFTER: Final = 5.0
"""Seconds after which the same worker may be doubted again. Less makes sidecars probe more often what they have just
probed; more leaves them to their own period for longer."""
_ID_LENGTH: Final = 16


class Doubts:
    """The doubts of one pool. Not thread-safe."""

    def __init__(self) -> None:
        self._pending: dict[str, None] = {}
        """The ids of workers to doubt, oldest first."""
        self._doubted_at: dict[str, float] = {}

    def add(self, worker: Worker, now: float) -> bool:
        """The worker has failed. Returns whether there is something new to tell."""
        known = worker.instance[:_ID_LENGTH]
        if now - self._doubted_at.get(known, -REPEAT_AFTER) < REPEAT_AFTER:
            return False
        self._doubted_at = {one: at for one, at in self._doubted_at.items() if now - at < REPEAT_AFTER}
        self._doubted_at[known] = now
        self._pending[known] = None
        return True

    def header(self) -> str | None:
        """The header's value; None if nobody is doubted."""
        return ",".join(list(self._pending)[:MAX_DOUBTED]) or None

    def confirm(self, header: str) -> None:
        """A sidecar has answered the query that carried this value."""
        for known in header.split(","):
            self._pending.pop(known, None)
