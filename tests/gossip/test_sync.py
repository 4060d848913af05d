"""What a newcomer, or somebody whom a broadcast has missed, learns by comparing."""

from __future__ import annotations

import pytest
from attackers import say
from pools import node, pool

from rumormill.gossip.wire import SyncDigest
from rumormill.membership import Liveness


@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_to_a_busy_pool_compares_as_soon_as_somebody_has_time(seed: int) -> None:
    """Of 1000 that started at once, one that had been told "busy" a few times compared again after 16 s."""
    world = pool(24, seed)
    world.start_one("late")
    for _ in range(15):
        for key in ("n0", "n1", "n2", "n3", "n4"):
            say(world, key, SyncDigest(node(world, key).table.buckets()))
        world.run(0.1)
    newcomer = node(world, "late")
    assert not newcomer._parts.anti_entropy.completed, "nobody had time"
    assert world.run_until(lambda: newcomer._parts.anti_entropy.completed, within=1.0) is not None
    assert world.one_view()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("goes", ["n1", "n16"])
def test_whom_every_push_has_missed_compares_at_the_next_heartbeat(goes: str, seed: int) -> None:
    """When the last that joined goes first, everybody's digest is again what ours was before it came: not of late."""
    world = pool(16, seed)
    world.start_one("n16")
    world.run(5.0 + seed * 0.03)
    world.cut_one_way(None, {"n5"})
    world.leave(goes)
    world.run(0.16)
    assert world.liveness_of("n5", goes) is not Liveness.LEFT
    world.heal()
    assert world.run_until(lambda: world.liveness_of("n5", goes) is Liveness.LEFT, within=0.28) is not None


def test_news_that_goes_round_makes_nobody_compare() -> None:
    """A heartbeat of somebody whom it has yet to reach carries the digest that was ours a moment ago."""
    world = pool(40, seed=1)
    observers = [key for key in world.running() if key not in ("n1", "n2", "n3")]
    before = [node(world, key).counters["syncs"] for key in observers]
    for key in ("n1", "n2", "n3"):
        world.crash(key)
        world.run(1.5)
    assert [node(world, key).counters["syncs"] for key in observers] == before


@pytest.mark.parametrize("seed", range(4))
def test_news_in_different_orders_keeps_nobody_from_comparing_later(seed: int) -> None:
    """Who has heard of B alone and who has heard of A alone compare, and neither learns what is not on its way."""
    world = pool(40, seed)
    for number in range(1, 7):
        world.leave(f"n{number}")
        world.run(0.003)
    world.run(0.3)
    world.cut_one_way(None, {"n20"})
    world.leave("n7")
    world.run(0.3)
    assert world.liveness_of("n20", "n7") is not Liveness.LEFT
    world.heal()
    assert world.run_until(lambda: world.liveness_of("n20", "n7") is Liveness.LEFT, within=0.4) is not None
