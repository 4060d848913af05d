"""A sliding window over one sender's datagram counters, which accepts each counter once (RFC 4303, section 3.4.3)."""

from __future__ import annotations

REPLAY_WINDOW = 1024
"""Counters behind the highest that are still accepted, once each. 64 lost 53 of 2028 datagrams in one burst."""

_MASK = (1 << REPLAY_WINDOW) - 1
_TRIM_ABOVE = 1 << 2 * REPLAY_WINDOW
"""Bits older than the window are cut off when the bitmap exceeds this, which is cheaper than each time."""


class ReplayWindow:
    """Which counters of one sender have been seen."""

    __slots__ = ("_seen", "highest")

    def __init__(self, highest: int = 0) -> None:
        self.highest = highest
        self._seen = _MASK if highest else 0
        """Bit n: the counter ``highest - n`` has been seen, or must not be accepted."""

    def accepts(self, counter: int) -> bool:
        """Whether this counter may still be accepted."""
        behind = self.highest - counter
        return behind < 0 or (behind < REPLAY_WINDOW and not self._seen >> behind & 1)

    def mark_seen(self, counter: int) -> None:
        """Mark the counter of a datagram that is authentic."""
        ahead = counter - self.highest
        if ahead > 0:
            seen = self._seen << ahead | 1 if ahead < REPLAY_WINDOW else 1
            self._seen = seen if seen < _TRIM_ABOVE else seen & _MASK
            self.highest = counter
        else:
            self._seen |= 1 << -ahead
