"""Checking what others signed, at a bounded cost.

A check takes about 0.1 ms, thirty times a datagram. So only what would change something here is checked (what is known
already is told by its bytes); at most 32 checks are made at a stretch, and what comes beyond waits until timers have
been served; and whoever passed on one bad signature is not checked again for a while, but taken for what it is. Members
check before they pass anything on, so nobody honest is ever caught by this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from rumormill.gossip.credentials import Authority, left_text, signed_by, sound, vote_text
from rumormill.gossip.wire import CastVote
from rumormill.membership.row import Row

STRETCH = 32
"""Checks between two servings of the timers: some 3 ms."""
DISTRUST_SECONDS = 10.0
MAX_DISTRUSTED = 1024


class Signatures:
    """Says whether a record, a departure or a vote is its subject's own."""

    def __init__(self, label: bytes, authority: Authority | None, counters: Counter[str]) -> None:
        self._label = label
        self._authority = authority
        self._counters = counters
        self.left = STRETCH
        """Checks that may still be made at this stretch."""
        self._distrusted: dict[Hashable, float] = {}

    def of_record(self, row: Row, bearer: Hashable, now: float) -> bool:
        """Whether a record was signed by its subject, under a name that was issued to it where names are issued.

        ``bearer`` is who brought it: a half, or the address of a stranger.
        """
        return self._may_check(bearer, now) and self._judge(sound(row, self._label, self._authority), bearer, now)

    def of_farewell(self, row: Row, incarnation: int, signature: bytes, bearer: Hashable, now: float) -> bool:
        """Whether the subject of a row said that it leaves."""
        if not self._may_check(bearer, now):
            return False
        good = signed_by(row, signature, left_text(self._label, row.instance, incarnation))
        return self._judge(good, bearer, now)

    def of_vote(self, voter: Row, subject: Row, incarnation: int, vote: CastVote, bearer: Hashable, now: float) -> bool:
        """Whether a member cast this vote."""
        if not self._may_check(bearer, now):
            return False
        text = vote_text(self._label, voter.instance, subject.instance, incarnation, vote.stamp)
        return self._judge(signed_by(voter, vote.signature, text), bearer, now)

    def _may_check(self, bearer: Hashable, now: float) -> bool:
        if self._distrusted and now < self._distrusted.get(bearer, now):
            self._counters["unchecked_signatures"] += 1
            return False
        self.left -= 1
        self._counters["checked_signatures"] += 1
        return True

    def _judge(self, good: bool, bearer: Hashable, now: float) -> bool:
        if not good:
            self._counters["bad_signatures"] += 1
            if len(self._distrusted) >= MAX_DISTRUSTED:
                del self._distrusted[next(iter(self._distrusted))]
            self._distrusted[bearer] = now + DISTRUST_SECONDS
        return good
