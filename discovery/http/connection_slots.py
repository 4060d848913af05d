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
FULL: Final = prepare_problem(
    503,
    "this sidecar has as many callers as it takes",
    "ask another sidecar, or again in a moment",
    headers=(RETRY_AFTER,),
)
QUIET: Final = 60.0
"""Seconds between two log lines about overload, at least."""
FEWEST: Final = 4
"""Connections offered however few descriptors there are."""
MOST_KEPT: Final = 64
"""Of anything that is kept back, at most."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Places:
    """Connections that may be open at once."""

    connections: int
    waiting: int
    """How many of them may wait for a change."""
    turned_away: int
    """Newcomers beyond them that get a word of explanation at a time."""

    @classmethod
    def within(cls, files: int, used: int, limits: Limits) -> Places:
        """What `files` descriptors allow, of which `used` are open; an eighth is left to the rest of the process."""
        turned_away = _part(files, 16)
        room = files - used - _part(files, 8) - turned_away
        connections = min(limits.connections, max(room, FEWEST))
        return cls(connections, connections - _part(connections, 4), turned_away)

    @classmethod
    def here(cls, limits: Limits) -> Places:
        """What this process has room for now."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = 1_000_000 if soft == resource.RLIM_INFINITY else soft
        return cls.within(files, sum(1 for _ in Path("/proc/self/fd").iterdir()), limits)


def _part(whole: int, share: int) -> int:
    return min(max(whole // share, 1), MOST_KEPT)


class Capacity:
    """Counts the callers that wait, and everybody for whom there was no place."""

    def __init__(self, places: Places, counters: Counter[str]) -> None:
        self.places = places
        self.waiting = 0
        self._counters = counters
        self._quiet_until = -math.inf
        self._untold = 0

    @contextmanager
    def wait(self, now: float) -> Iterator[None]:
        """Take one of the places for callers that wait. Raises :class:`Refused` (503) where they are all taken."""
        if self.waiting >= self.places.waiting:
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
        self._untold += 1
        if now >= self._quiet_until:
            log.warning(
                "overloaded",
                refused=self._untold,
                places=self.places.connections,
                waiting=self.waiting,
                hint="spread callers over more sidecars, or raise the hard limit of open files (ulimit -Hn, "
                "LimitNOFILE=) if that allows fewer than 8192 places",
            )
            self._quiet_until = now + QUIET
            self._untold = 0
