"""What one caller, and all callers together, may cost. This file holds every limit of the HTTP server."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIN_CONNECTIONS: Final = 4
"""Connections accepted even if there are few descriptors."""
MAX_RESERVED: Final = 64
"""The largest reserve of any kind."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes. The defaults suit all pools; tests shorten the times."""

    connections: int = 8192
    """Open at once, as far as descriptors go (connection_slots.py); then the longest idle one makes room, and where
    none is idle the newcomer gets 503. Larger: some 6 kB of memory each."""
    head: int = 16384
    """Request line and headers. Larger: more memory for a caller that is not authenticated yet."""
    target: int = 8192
    """The request target alone."""
    headers: int = 100
    """Header lines of one request."""
    body: int = 65536
    """The body of a request. Only Envoy sends larger ones."""
    large_body: int = 262144
    """The body of a request of Envoy, which lists its extensions in each: 77 kB in version 1.40."""
    large_bodies: int = 64
    """Large bodies that may be under way at once; the next gets 503. Larger: more memory for callers that are not
    authenticated yet, 16 MB as it is."""
    head_timeout: float = 5.0
    """From the first byte of a request to its last. Larger: slowloris attacks hold connections longer."""
    idle_timeout: float = 75.0
    """A kept-alive connection without a request. Longer than common proxies' 60 s, so that they close first."""
    write_timeout: float = 20.0
    """For the caller to read one whole answer or event."""
    sweep: float = 0.5
    """How often overdue connections are looked for, and so how late the timeouts above may act."""
    keep_alive: float = 15.0
    """A silent event stream gets a comment this often, so that proxies and the caller see that it lives."""
    longest_wait: float = 600.0
    """The longest blocking query."""
    moment: float = 0.5
    """The longest block of a query with an index of another process; the shortest is half of it. Larger: a caller that
    reaches another sidecar with each query polls less often, and learns of missed changes later."""
    settle: float = 0.5
    """From the first other member found until the formats of other programs are answered: the table has come by then.
    Larger: a program whose sidecar restarts waits longer."""
    settle_alone: float = 2.0
    """The same from the start, for a sidecar that finds nobody."""
    batch: int = 64
    """Requests answered, or waiting callers woken, before the loop returns to gossip (about 2 ms). Larger: a
    little cheaper, but gossip waits longer under load."""
    linger: float = 1.0
    """How long a rejected caller may go on sending before it is cut off, so that it can read the reason."""


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Connections that may be open at once."""

    connections: int
    waiting: int
    """How many of them may wait for a change."""
    rejections: int
    """Callers beyond them that may be reading a 503 at one time."""

    @classmethod
    def within(cls, files: int, used: int, limits: Limits) -> SlotLimits:
        """What `files` descriptors allow, of which `used` are open; an eighth is left to the rest of the process."""
        rejections = _reserve(files, 16)
        room = files - used - _reserve(files, 8) - rejections
        connections = min(limits.connections, max(room, MIN_CONNECTIONS))
        return cls(connections, connections - _reserve(connections, 4), rejections)

    @classmethod
    def here(cls, limits: Limits) -> SlotLimits:
        """The limits that this process has descriptors for now."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = 1_000_000 if soft == resource.RLIM_INFINITY else soft
        return cls.within(files, sum(1 for _ in Path("/proc/self/fd").iterdir()), limits)


def _reserve(total: int, share: int) -> int:
    return min(max(total // share, 1), MAX_RESERVED)
