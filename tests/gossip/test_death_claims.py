"""Deaths claimed without valid votes are verified only a few at a time."""

from __future__ import annotations

import pytest
from pools import node, pool

from rumormill.gossip.lifecycle.death_claims import DeathClaims
from rumormill.membership import Liveness


@pytest.mark.parametrize(("limit", "taken"), [(-2, 0), (0, 0), (1, 1), (2, 2), (9, 3)])
def test_no_more_claims_are_verified_than_there_is_room_for(limit: int, taken: int) -> None:
    """Other temporary monitoring may leave no room at all."""
    state = node(pool(4), "n0")._state
    claims = DeathClaims(state)
    for row in [row for row in state.table if row.member_id != state.me.member_id]:
        suspect = row.with_liveness(Liveness.SUSPECT)
        state.table.apply(suspect)
        claims.add(suspect)
    state.now += state.settings.period
    assert len(claims.take_due(limit)) == taken
    assert len(claims.unconfirmed) == 3 - taken
