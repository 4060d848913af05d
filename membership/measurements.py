"""What a member measures of its own gossip, for its operator. It decides nothing: no protocol choice reads it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

DATAGRAM_KINDS: Final = ("heartbeat", "probe", "membership", "join", "sync", "policy", "keys", "load", "other")
"""What a datagram is about: the kind of its first message. Piggybacked messages are not counted on their own."""

NETWORK_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bucket bounds for round trips and for the lateness of the event loop."""
HEARTBEAT_GAP_SECONDS: Final = (0.1, 0.15, 0.19, 0.21, 0.225, 0.25, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0)
"""Bucket bounds for the time between two heartbeats of one member. They are close together around the usual period of
200 ms, where a delay first shows, and reach 600 ms, where an eviction is near."""


class Histogram:
    """Counts of measured values by size, as Prometheus wants them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        """Inclusive upper bounds, ascending. One more bucket takes what is above the last."""
        self.counts = [0] * (len(bounds) + 1)
        """How many values fell into each bucket."""
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Traffic:
    """Datagrams in one direction, by kind."""

    __slots__ = ("bytes", "datagrams")

    def __init__(self) -> None:
        self.datagrams = [0] * len(DATAGRAM_KINDS)
        """By position in :data:`DATAGRAM_KINDS`."""
        self.bytes = [0] * len(DATAGRAM_KINDS)
        """Bytes of UDP payload, seal included."""

    def count(self, kind: int, size: int) -> None:
        """``kind`` is a position in :data:`DATAGRAM_KINDS`, ``size`` a number of bytes."""
        self.datagrams[kind] += 1
        self.bytes[kind] += size


class GossipMeasurements:
    """The measurements of one node since its start."""

    __slots__ = ("digest_disagreement", "heartbeat_gap", "received", "round_trip", "sent")

    def __init__(self) -> None:
        self.sent = Traffic()
        self.received = Traffic()
        """Datagrams that were opened. Dropped ones are counted by their reason."""
        self.heartbeat_gap = Histogram(HEARTBEAT_GAP_SECONDS)
        """Seconds between two heartbeats of one monitored member, as they arrived."""
        self.round_trip = Histogram(NETWORK_SECONDS)
        """Seconds from a direct ping to its ack."""
        self.digest_disagreement = 0.0
        """Seconds for which a member's digest differed from ours, summed over the members that send us heartbeats."""
