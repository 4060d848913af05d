"""All hosts but one of a small pool vanish at once, and nothing refuses: the survivor's callers lose no request.

bench/vanished_hosts.py does it 20 times and takes the times.
"""

from __future__ import annotations

import pytest

from bench.vanished_hosts import measure


@pytest.mark.parametrize("size", [3, 4])
def test_the_survivor_stays_ready_and_its_callers_lose_nothing(size: int) -> None:
    found = measure(size, times=1, seed=1)
    assert len(found.first_owner) == 1, "in the end no lookup named a vanished worker first"
    assert found.asked_ready > 0
    assert found.not_ready == 0
    assert found.pools == [(size - 1, 0)], "suspects are never counted as spare"
    assert found.requests > 0
    assert found.troubles == []
