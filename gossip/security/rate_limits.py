"""How often anybody may make us work: token buckets, one for each source and one for all together.

Sources are bounded in number; the one unheard for longest is forgotten first. A flood from ten thousand invented
addresses therefore costs a table of constant size and what all together may cost.
"""

from __future__ import annotations

from collections.abc import Hashable

MAX_SOURCES = 1024


class TokenBucket:
    """Lets pass at most ``each`` a second from one source and ``total`` from all; either may come up to two seconds'
    worth at once."""

    __slots__ = ("_all", "_each", "_sources", "_total")

    def __init__(self, each: float, total: float) -> None:
        self._each = each
        self._total = total
        self._all = (2 * total, 0.0)
        self._sources: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def allows(self, source: Hashable, now: float) -> bool:
        """Whether one more from this source may pass now; if so, it has."""
        mine = _filled(self._sources.pop(source, (2 * self._each, now)), self._each, now)
        everybody = _filled(self._all, self._total, now)
        passes = mine >= 1 and everybody >= 1
        self._sources[source] = (mine - passes, now)
        self._all = (everybody - passes, now)
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        return passes


def _filled(bucket: tuple[float, float], rate: float, now: float) -> float:
    """Tokens in a bucket now."""
    tokens, at = bucket
    return min(2 * rate, tokens + (now - at) * rate)
