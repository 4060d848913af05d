"""What a newcomer, or somebody whom a push has missed, learns by comparing."""

from __future__ import annotations

import pytest
from attackers import say
from pools import node, pool

from rumormill.gossip.wire import Sum


@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_to_a_busy_pool_compares_as_soon_as_somebody_has_time(seed: int) -> None:
    """Of 1000 that started at once, one that had been told "busy" a few times compared again after 16 s."""
    world = pool(24, seed)
    world.start_one("late")
    for _ in range(15):
        for key in ("n0", "n1", "n2", "n3", "n4"):
            say(world, key, Sum(node(world, key).table.buckets()))
        world.run(0.1)
    newcomer = node(world, "late")
    assert not newcomer._sync.completed, "nobody had time"
    assert world.run_until(lambda: newcomer._sync.completed, within=1.0) is not None
    assert world.one_view()
