"""The state of one sync that we started, and the wait before the next one of its kind."""

from __future__ import annotations

from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

LONGEST_WAIT = 30.0
"""Seconds. Larger: fewer useless syncs while tables cannot become equal; differences are found later."""


class SyncBackoff:
    """Until when no sync of one kind starts: longer each time that one brought nothing. Seconds."""

    __slots__ = ("_duration", "_first", "until")

    def __init__(self, first: float, now: float) -> None:
        self._first = first
        self._duration = 0.0
        self.until = now

    def reset(self, now: float) -> None:
        self._duration = 0.0
        self.until = now

    def lengthen(self, now: float, jitter: float) -> None:
        self._duration = min(max(self._first, 2 * self._duration), LONGEST_WAIT)
        self.until = now + self._duration * jitter


class SyncSession:
    """One sync that we started with one peer."""

    __slots__ = ("backoff", "outstanding", "parts", "peer", "retry_at", "tries", "version", "wanted")

    def __init__(self, peer: MemberState, version: int, wait: SyncBackoff) -> None:
        self.peer = peer
        self.version = version
        """The table's version when we began. It tells whether we learned anything."""
        self.backoff = wait
        """Delays the next sync of this kind."""
        self.parts: set[int] | None = None
        """Parts of the offer that are still missing; None before the first part."""
        self.wanted: dict[MemberId, int] = {}
        self.outstanding: dict[MemberId, None] = {}
        """What we requested last and have not received."""
        self.tries = 0
        self.retry_at = 0.0
