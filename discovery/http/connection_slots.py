"""How many callers may be connected, and the slots reserved for short requests.

Every caller uses a descriptor, and a process has a limited number. A blocking query or an event stream holds one for
minutes, so some slots are closed to them: health checks, commands and operators always find one. A caller without a
slot gets a 503 with ``Retry-After`` and is counted. The log reports overload at most once a minute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from rumormill.discovery.http.limits import SlotLimits
from rumormill.discovery.http.response import prepare_problem, refuse

RETRY_AFTER: Final = ("Retry-After", "1")
OVERLOADED: Final = prepare_problem(
    503,
    "this sidecar has no room for another caller",
    "ask another sidecar, or again in a moment",
    headers=(RETRY_AFTER,),
)
LOG_INTERVAL: Final = 60.0
"""Least seconds between two log lines about overload."""
log = structlog.get_logger()


class ConnectionSlots:
    """Counts the callers that wait, and those that found no slot."""

    def __init__(self, limits: SlotLimits, counters: Counter[str]) -> None:
        self.limits = limits
        self.waiting = 0
        self._counters = counters
        self._next_log_at = -math.inf
        self._unlogged = 0

    @contextmanager
    def wait(self, now: float) -> Iterator[None]:
        """Hold one of the slots for waiting callers. Raises :class:`RequestRejected` (503) if all are taken."""
        if self.waiting >= self.limits.waiting:
            self.refused("waits_refused", now)
            raise refuse(
                503,
                "this sidecar has no room for another blocking query or stream",
                "ask another sidecar, or poll without index= and wait=",
                headers=(RETRY_AFTER,),
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def refused(self, counter: str, now: float) -> None:
        """Count a caller that found no slot. `now` is seconds on a monotonic clock."""
        self._counters[counter] += 1
        self._unlogged += 1
        if now >= self._next_log_at:
            log.warning(
                "overloaded",
                refused=self._unlogged,
                places=self.limits.connections,
                waiting=self.waiting,
                hint="spread callers over more sidecars, or raise the hard limit of open files (ulimit -Hn, "
                "LimitNOFILE=) if that allows fewer than 8192 places",
            )
            self._next_log_at = now + LOG_INTERVAL
            self._unlogged = 0
