"""Rate limits on the work that others can cause: a token bucket for each source, and one for all sources together.

The number of sources is bounded: the least recently seen one is forgotten first. So a flood from ten thousand invented
addresses costs a table of constant size, and no more work than the bucket for all allows.
"""

from __future__ import annotations

from collections.abc import Hashable

MAX_SOURCES = 1024


class TokenBucket:
    """Allows ``each`` events a second from one source and ``total`` from all. Bursts may be twice as large."""

    __slots__ = ("_all", "_each", "_sources", "_total")

    def __init__(self, each: float, total: float) -> None:
        self._each = each
        self._total = total
        self._all = (2 * total, 0.0)
        self._sources: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def allows(self, source: Hashable, now: float) -> bool:
        """Whether one more event from this source may pass now. If so, it takes a token."""
        mine = _filled(self._sources.pop(source, (2 * self._each, now)), self._each, now)
        everybody = _filled(self._all, self._total, now)
        passes = mine >= 1 and everybody >= 1
        self._sources[source] = (mine - passes, now)
        self._all = (everybody - passes, now)
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        return passes


def _filled(bucket: tuple[float, float], rate: float, now: float) -> float:
    """The tokens in a bucket now."""
    tokens, at = bucket
    return min(2 * rate, tokens + (now - at) * rate)
