"""What one caller, and all of them together, may cost. Every bound of the HTTP shell stands here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes. The defaults are meant to be left alone; tests shorten the times."""

    connections: int = 8192
    """Open at once, as far as descriptors go (connection_slots.py); then the longest idle one makes room, and where
    none is idle the newcomer gets 503. Larger: some 6 kB of memory each."""
    head: int = 16384
    """Request line and headers. Larger: what a caller may make us keep before we know who asks."""
    target: int = 8192
    """The request target alone."""
    headers: int = 100
    """Header lines of one request."""
    body: int = 65536
    """Nothing here takes a large body."""
    head_timeout: float = 5.0
    """From the first byte of a request to its last, however slowly it drips. Larger: slowloris holds on longer."""
    idle_timeout: float = 75.0
    """A kept-alive connection without a request. Longer than common proxies' 60 s, so that they close first."""
    write_timeout: float = 20.0
    """For the whole of one answer or one event to be taken."""
    sweep: float = 0.5
    """How often overdue connections are looked for: how late the time-outs above may be."""
    keep_alive: float = 15.0
    """A comment is sent on a silent event stream, so that proxies and the caller see it lives."""
    longest_wait: float = 600.0
    """The longest blocking query."""
    moment: float = 0.5
    """For which a query with an index of another process blocks, at most; half of it at least. Longer: a caller that
    reaches another sidecar with each query asks less often, and learns later what changed between two of them."""
    batch: int = 64
    """Requests answered, or waiting callers woken, before the loop is given back to gossip (about 2 ms). Larger: a
    little cheaper, and gossip waits longer under load."""
    linger: float = 1.0
    """How long a refused caller may go on sending before it is cut off: else it never sees why."""
