"""Votes: who says it saw three misses in a row of whom, and since when.

A vote is good for two periods and is renewed by each further miss. It is void when its voter hears the subject again,
when the subject raises its incarnation, and for an observer that does not hold the voter alive, or has held it
otherwise since the vote was cast: a frozen member that wakes has nothing to say about what happened meanwhile. Nor does
a newcomer count that still waits for its name, while anybody is there who need not wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rumormill.gossip.state import State
from rumormill.membership.record import Liveness

MAX_VOTERS = 16
"""Votes kept per subject; two decide. Where there are more, those of the longest known: newcomers crowd nobody out."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote as its observer holds it."""

    voter: bytes
    incarnation: int
    cast: float
    """Seconds on the observer's clock."""
    stamp: int
    """The voter's clock in milliseconds, as it signed."""
    signature: bytes


class VoteBook:
    """All votes one member holds, its own included."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._ballots: dict[bytes, dict[bytes, Ballot]] = {}
        self.lifetime = 2 * state.settings.period

    def cast(self, subject: bytes, ballot: Ballot) -> None:
        """Hold a vote; a renewed one replaces its forerunner."""
        ballots = self._ballots.setdefault(subject, {})
        known = ballots.get(ballot.voter)
        if known is None and len(ballots) >= MAX_VOTERS:
            newest = max(ballots, key=self._came)
            if self._came(ballot.voter) >= self._came(newest):
                return
            del ballots[newest]
        if known is None or (known.incarnation, known.cast) < (ballot.incarnation, ballot.cast):
            ballots[ballot.voter] = ballot

    def knows(self, subject: bytes, voter: bytes, incarnation: int, stamp: int) -> bool:
        """Whether this very vote is held: told again, it is no younger."""
        known = self._ballots.get(subject, {}).get(voter)
        return known is not None and (known.incarnation, known.stamp) == (incarnation, stamp)

    def valid(self, subject: bytes) -> list[Ballot]:
        """The votes against a subject's present incarnation that count here and now, in the order they were cast."""
        row = self._state.table.get(subject)
        ballots = self._ballots.get(subject)
        if row is None or not ballots:
            return []
        good = (b for b in ballots.values() if b.incarnation == row.incarnation and self._counts(b))
        return sorted(good, key=lambda ballot: (ballot.cast, ballot.voter))

    def held(self, subject: bytes) -> Iterable[Ballot]:
        """Every vote held against a subject, good or not: what a death is passed on with."""
        return self._ballots.get(subject, {}).values()

    def withdraw(self, subject: bytes) -> None:
        """Take back our own vote: we heard from the subject."""
        if ballots := self._ballots.get(subject):
            ballots.pop(self._state.me.half, None)

    def clear(self, subject: bytes) -> None:
        """Forget what was said of a subject: it refuted, or is gone."""
        self._ballots.pop(subject, None)

    def void_all(self) -> None:
        """Nothing held may count any more: we were paused, or cut off."""
        self._ballots.clear()

    def _came(self, voter: bytes) -> float:
        """When a voter came to be known here; we were here before anybody."""
        state = self._state
        return -math.inf if voter == state.me.half else state.known_since.get(voter, math.inf)

    def _counts(self, ballot: Ballot) -> bool:
        state = self._state
        if state.now - ballot.cast > self.lifetime:
            return False
        if ballot.voter == state.me.half:
            return True
        voter = state.table.get(ballot.voter)
        if voter is None or voter.liveness is not Liveness.ALIVE or (voter.pending and self._any_settled()):
            return False
        return state.alive_since.get(ballot.voter, -1e9) <= ballot.cast

    def _any_settled(self) -> bool:
        """Whether anybody alive holds a name. Where all wait for names of the dead, who else should bury them?"""
        table = self._state.table
        rows = (table.get(half) for half in table.order if half not in table.suspects)
        return any(row is not None and not row.pending for row in rows)
