"""How many callers there is room for, and what is kept back for those that want little.

Every caller holds a descriptor, and a process has only so many. A query that blocks and an event stream hold theirs for
minutes, so they may take all places but a few: health checks, commands and the operator's questions always find one.
Whoever finds none is told so (503 with ``Retry-After``), counted, and named in the log, once a minute at most.
"""

from __future__ import annotations

import math
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from rumormill.discovery.http.limits import Limits
from rumormill.discovery.http.response import prepare_problem, refuse

RETRY_AFTER: Final = ("Retry-After", "1")
OVERLOADED: Final = prepare_problem(
    503,
    "this sidecar has as many callers as it takes",
    "ask another sidecar, or again in a moment",
    headers=(RETRY_AFTER,),
)
LOG_INTERVAL: Final = 60.0
"""Seconds between two log lines about overload, at least."""
MIN_CONNECTIONS: Final = 4
"""Connections offered however few descriptors there are."""
MAX_RESERVED: Final = 64
"""Of anything that is kept back, at most."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Connections that may be open at once."""

    connections: int
    waiting: int
    """How many of them may wait for a change."""
    rejections: int
    """Newcomers beyond them that get a word of explanation at a time."""

    @classmethod
    def within(cls, files: int, used: int, limits: Limits) -> SlotLimits:
        """What `files` descriptors allow, of which `used` are open; an eighth is left to the rest of the process."""
        rejections = _reserve(files, 16)
        room = files - used - _reserve(files, 8) - rejections
        connections = min(limits.connections, max(room, MIN_CONNECTIONS))
        return cls(connections, connections - _reserve(connections, 4), rejections)

    @classmethod
    def here(cls, limits: Limits) -> SlotLimits:
        """What this process has room for now."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = 1_000_000 if soft == resource.RLIM_INFINITY else soft
        return cls.within(files, sum(1 for _ in Path("/proc/self/fd").iterdir()), limits)


def _reserve(headers_and_body: int, share: int) -> int:
    return min(max(headers_and_body // share, 1), MAX_RESERVED)


class ConnectionSlots:
    """Counts the callers that wait, and everybody for whom there was no place."""

    def __init__(self, limits: SlotLimits, counters: Counter[str]) -> None:
        self.limits = limits
        self.waiting = 0
        self._counters = counters
        self._next_log_at = -math.inf
        self._unlogged = 0

    @contextmanager
    def wait(self, now: float) -> Iterator[None]:
        """Take one of the places for callers that wait. Raises :class:`Refused` (503) where they are all taken."""
        if self.waiting >= self.limits.waiting:
            self.refused("waits_refused", now)
            raise refuse(
                503,
                "this sidecar has as many blocked queries and streams as it takes",
                "ask another sidecar, or without index= and wait= once in a while",
                headers=(RETRY_AFTER,),
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def refused(self, counter: str, now: float) -> None:
        """Somebody found no place. `now` is in seconds on a clock that never goes back."""
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
