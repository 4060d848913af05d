"""Deaths that peers claim without valid votes: how long we wait for a refutation, and what the claim counts for later.

A claim without valid votes becomes a suspicion, and its subject is told. If nobody refutes it within a period, we probe
the subject ourselves. Our own three misses then confirm the death: the claim counts as the second vote.
"""

from __future__ import annotations

from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, MemberId

MAX_UNCONFIRMED_DEATHS = 256
"""Claims that wait for a refutation at once. More are dropped, and a later sync finds them again."""


class DeathClaims:
    """Claimed deaths that we have not confirmed. Changes nothing itself: eviction.py acts on it."""

    __slots__ = ("_state", "_supported", "unconfirmed")

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self.unconfirmed: dict[MemberId, float] = {}
        """When to verify each claim ourselves if nobody has refuted it, oldest first."""
        self._supported: dict[MemberId, int] = {}
        """The incarnation at which a peer's claim counts as the second vote."""

    def add(self, row: MemberState) -> None:
        """Remember a claim, unless we verify this member already or too many claims wait."""
        state, member_id = self._state, row.member_id
        known = member_id in self.unconfirmed or member_id in self._supported
        if not known and len(self.unconfirmed) < MAX_UNCONFIRMED_DEATHS:
            self.unconfirmed[member_id] = state.now + state.settings.period

    def take_due(self, limit: int) -> list[MemberState]:
        """Members whose deaths nobody refuted in time, at most ``limit`` of them: we now verify them ourselves."""
        rows: list[MemberState] = []
        for member_id, due in list(self.unconfirmed.items()):
            if due > self._state.now or len(rows) >= limit:
                break
            del self.unconfirmed[member_id]
            row = self._state.table.get(member_id)
            if row is not None and row.liveness is Liveness.SUSPECT:
                self.count_as_vote(row)
                rows.append(row)
        return rows

    def count_as_vote(self, row: MemberState) -> None:
        """From now on, the claim against this incarnation counts as a second vote beside our own."""
        self._supported[row.member_id] = row.incarnation

    def counts_as_vote(self, row: MemberState) -> bool:
        return self._supported.get(row.member_id) == row.incarnation

    def settle(self, member_id: MemberId) -> None:
        """The member is dead or has left: there is nothing left to verify."""
        self.unconfirmed.pop(member_id, None)

    def clear(self, member_id: MemberId) -> None:
        """The member refuted the claim, or its row is forgotten."""
        self.unconfirmed.pop(member_id, None)
        self._supported.pop(member_id, None)
