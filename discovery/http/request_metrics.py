"""Counts requests by route and status, and measures how long their answers took to make."""

from __future__ import annotations

from typing import Final

from rumormill.membership.measurements import Histogram

REQUEST_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
"""Bucket bounds. An answer that is encoded already takes tens of microseconds."""
NO_ROUTE: Final = "none"
"""The route of requests that match none, so that callers cannot make up labels."""


class RequestMetrics:
    """Every route is one of the table of routes or :data:`NO_ROUTE`, so the number of entries is bounded."""

    __slots__ = ("counts", "durations")

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int], int] = {}
        """Requests by route and status."""
        self.durations: dict[str, Histogram] = {}
        """Seconds from a complete request to its encoded answer, by route. Requests that waited for a change, and event
        streams, are not in it: they take as long as the caller asked for."""

    def record(self, route: str, status: int, seconds: float | None) -> None:
        """Count one answered request. ``seconds`` is None for one that waited for a change."""
        key = (route, status)
        self.counts[key] = self.counts.get(key, 0) + 1
        if seconds is not None:
            histogram = self.durations.get(route)
            if histogram is None:
                histogram = self.durations[route] = Histogram(REQUEST_SECONDS)
            histogram.observe(seconds)
