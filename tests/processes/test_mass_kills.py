"""Most of a small pool is killed at once, under load; bench/mass_kills.py does it 20 times and takes the times."""

from __future__ import annotations

import pytest

from bench.mass_kills import measure


@pytest.mark.parametrize(("size", "silent"), [(3, False), (4, True)])
async def test_the_survivor_stays_ready_and_no_request_fails(size: int, silent: bool) -> None:
    found = await measure(size, times=2, rate=20.0, seed=1, silent=silent)
    assert found.asked_ready > 0
    assert found.not_ready == []
    assert len(found.first_owner) == 2
    assert found.whole.requests > 0
    assert (found.whole.failed, found.whole.wrong) == (0, 0), found.whole.troubles
