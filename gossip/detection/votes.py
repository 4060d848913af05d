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

from rumormill.gossip.state import NodeState
from rumormill.membership.record import Liveness, MemberId, Signature

MAX_VOTERS = 16
"""Votes kept per subject; two decide. Where there are more, those of the longest known: newcomers crowd nobody out."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote as its observer holds it."""

    voter: MemberId
    incarnation: int
    cast: float
    """Seconds on the observer's clock."""
    stamp: int
    """The voter's clock in milliseconds, as it signed."""
    signature: Signature


class VoteBook:
    """All votes one member holds, its own included."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._votes: dict[MemberId, dict[MemberId, Vote]] = {}
        self.lifetime = 2 * state.settings.period

    def add(self, subject: MemberId, vote: Vote) -> None:
        """Hold a vote; a renewed one replaces its forerunner."""
        votes = self._votes.setdefault(subject, {})
        known = votes.get(vote.voter)
        if known is None and len(votes) >= MAX_VOTERS:
            newest = max(votes, key=self._known_since)
            if self._known_since(vote.voter) >= self._known_since(newest):
                return
            del votes[newest]
        if known is None or (known.incarnation, known.cast) < (vote.incarnation, vote.cast):
            votes[vote.voter] = vote

    def has(self, subject: MemberId, voter: MemberId, incarnation: int, stamp: int) -> bool:
        """Whether this very vote is held: told again, it is no younger."""
        known = self._votes.get(subject, {}).get(voter)
        return known is not None and (known.incarnation, known.stamp) == (incarnation, stamp)

    def valid_votes(self, subject: MemberId) -> list[Vote]:
        """The votes against a subject's present incarnation that count here and now, in the order they were cast."""
        row = self._state.table.get(subject)
        votes = self._votes.get(subject)
        if row is None or not votes:
            return []
        good = (b for b in votes.values() if b.incarnation == row.incarnation and self._is_valid(b))
        return sorted(good, key=lambda vote: (vote.cast, vote.voter))

    def all_votes(self, subject: MemberId) -> Iterable[Vote]:
        """Every vote held against a subject, good or not: what a death is passed on with."""
        return self._votes.get(subject, {}).values()

    def withdraw_own(self, subject: MemberId) -> None:
        """Take back our own vote: we heard from the subject."""
        if votes := self._votes.get(subject):
            votes.pop(self._state.me.member_id, None)

    def clear(self, subject: MemberId) -> None:
        """Forget what was said of a subject: it refuted, or is gone."""
        self._votes.pop(subject, None)

    def clear_all(self) -> None:
        """Nothing held may count any more: we were paused, or cut off."""
        self._votes.clear()

    def _known_since(self, voter: MemberId) -> float:
        """When a voter came to be known here; we were here before anybody."""
        state = self._state
        return -math.inf if voter == state.me.member_id else state.known_since.get(voter, math.inf)

    def _is_valid(self, vote: Vote) -> bool:
        state = self._state
        if state.now - vote.cast > self.lifetime:
            return False
        if vote.voter == state.me.member_id:
            return True
        voter = state.table.get(vote.voter)
        if voter is None or voter.liveness is not Liveness.ALIVE or (voter.pending and self._any_settled()):
            return False
        return state.alive_since.get(vote.voter, -1e9) <= vote.cast

    def _any_settled(self) -> bool:
        """Whether anybody alive holds a name. Where all wait for names of the dead, who else should bury them?"""
        table = self._state.table
        rows = (table.get(member_id) for member_id in table.present_ids if member_id not in table.suspects)
        return any(row is not None and not row.pending for row in rows)
