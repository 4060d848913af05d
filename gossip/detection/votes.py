"""Votes: who saw three misses in a row of which member, and when.

A vote is valid for two periods. Each further miss renews it. It becomes void when:

* its voter hears the subject again,
* the subject raises its incarnation,
* the voter is not alive here, or was not alive at some time since it voted: a frozen member that wakes knows nothing of
  what happened meanwhile,
* the voter is a newcomer that still waits for its name, unless every member that is alive waits for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.membership.record import Liveness, MemberId, Signature

MAX_VOTERS = 16
"""Votes kept per subject, of which two decide. Those of the members known longest are kept, so newcomers cannot crowd
out the others."""


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


class VoteBook(Part):
    """All votes that one member holds, including its own."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._votes: dict[MemberId, dict[MemberId, Vote]] = {}
        """By subject and voter."""
        self.lifetime = 2 * state.settings.period

    def add(self, subject: MemberId, vote: Vote) -> None:
        """Hold a vote. A renewed vote replaces the earlier one of its voter."""
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
        """Whether exactly this vote is held. Hearing it again makes it no younger."""
        known = self._votes.get(subject, {}).get(voter)
        return known is not None and (known.incarnation, known.stamp) == (incarnation, stamp)

    def valid_votes(self, subject: MemberId) -> list[Vote]:
        """The votes against a subject's present incarnation that are valid here and now, the earliest first."""
        row = self._state.table.get(subject)
        votes = self._votes.get(subject)
        if row is None or not votes:
            return []
        valid = (vote for vote in votes.values() if vote.incarnation == row.incarnation and self._is_valid(vote))
        return sorted(valid, key=lambda vote: (vote.cast, vote.voter))

    def all_votes(self, subject: MemberId) -> Iterable[Vote]:
        """All votes held against a subject, valid or not: a death is passed on with them."""
        return self._votes.get(subject, {}).values()

    def withdraw_own(self, subject: MemberId) -> None:
        """Withdraw our own vote: we heard the subject."""
        if votes := self._votes.get(subject):
            votes.pop(self._state.me.member_id, None)

    def clear(self, subject: MemberId) -> None:
        """Forget all votes against a subject: it refuted, or is gone."""
        self._votes.pop(subject, None)

    def restart(self) -> None:
        self.clear_all()

    def clear_all(self) -> None:
        """Forget all votes: we were paused or cut off."""
        self._votes.clear()

    def _known_since(self, voter: MemberId) -> float:
        """When a voter came to be known here. We ourselves come before all others."""
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
        """Whether any member that is alive holds its name. If every member is pending, pending votes must count."""
        table = self._state.table
        rows = (table.get(member_id) for member_id in table.present_ids if member_id not in table.suspects)
        return any(row is not None and not row.pending for row in rows)
