"""Splits heal to one view, no side evicts its own members, and members that are cut off do not evict the pool."""

from __future__ import annotations

import pytest
from pools import everyone_holds, held, node, pool
from seeds import MORE_SEEDS, seeds

from rumormill.membership import Liveness
from rumormill.simulations import World


def sides(world: World, count: int) -> tuple[set[str], set[str]]:
    keys = list(world.hosts)
    return set(keys[:count]), set(keys[count:])


def evicted_on_own_side(world: World, *groups: set[str]) -> list[str]:
    return [str(c) for c in world.history.of("evicted") if any({c.observer, c.member} <= side for side in groups)]


@pytest.mark.parametrize("seed", seeds(4))
@pytest.mark.parametrize(
    ("count", "minority"), [(4, 2), (8, 4), (16, 8), (9, 3), pytest.param(48, 24, marks=MORE_SEEDS)]
)
def test_a_split_heals_to_one_view(count: int, minority: int, seed: int) -> None:
    world = pool(count, seed)
    left, right = sides(world, minority)
    world.cut(left, right)
    world.run(10.0)
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.run(5.0)
    assert world.one_view()
    assert evicted_on_own_side(world, left, right) == []


@pytest.mark.parametrize("seed", seeds(3))
def test_a_three_way_split_heals_to_one_view(seed: int) -> None:
    world = pool(24, seed)
    keys = list(world.hosts)
    parts = [set(keys[:8]), set(keys[8:16]), set(keys[16:])]
    world.cut(parts[0], parts[1] | parts[2])
    world.cut(parts[1], parts[2])
    world.run(20.0)
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    assert evicted_on_own_side(world, *parts) == []


def test_a_member_cut_off_alone_evicts_nobody_and_is_back_at_once() -> None:
    world = pool(6)
    world.cut({"n2"})
    world.run(10.0)
    alone = node(world, "n2")
    assert not alone.is_connected
    assert {m.liveness for m in alone.view.members if m.name != "n2"} == {Liveness.SUSPECT}
    assert everyone_holds(world, "n2", Liveness.DEAD)
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    assert [c for c in world.history.of("evicted") if c.observer == "n2"] == []


def test_a_last_survivor_evicts_the_others_after_a_minute() -> None:
    world = pool(5)
    world.crash("n1", "n2", "n3", "n4")
    world.run(30.0)
    assert {m.liveness for m in node(world, "n0").view.members if m.name != "n0"} == {Liveness.SUSPECT}
    world.run(40.0)
    assert {m.liveness for m in node(world, "n0").view.members if m.name != "n0"} == {Liveness.DEAD}


@pytest.mark.parametrize("seed", seeds(5))
def test_a_pool_of_three_that_replaced_a_dead_member_detects_the_next_death_as_quickly(seed: int) -> None:
    """Two of three lost within six periods are a large loss, which is deferred. But a newcomer has made up for the
    first."""
    world = pool(3, seed)
    world.crash("n1")
    assert world.run_until(lambda: everyone_holds(world, "n1", Liveness.DEAD), within=0.65)
    world.start_one("n3")
    assert world.run_until(world.one_view, within=0.2)
    world.crash("n2")
    assert world.run_until(lambda: everyone_holds(world, "n2", Liveness.DEAD), within=0.65), world.history.tail()


@MORE_SEEDS
def test_a_split_longer_than_the_tombstones_heals_too() -> None:
    """Dead members are forgotten after an hour, but seeds are asked forever."""
    world = pool(6)
    left, right = sides(world, 3)
    world.cut(left, right)
    world.run(4000.0)
    world.heal()
    assert world.run_until(world.one_view, within=5.0) is not None, world.history.tail()


def test_a_member_that_left_during_a_split_does_not_come_back_after_it() -> None:
    """The other side evicted it long before it left. Each side may hold it left or dead, but not alive."""
    world = pool(8)
    left, right = sides(world, 4)
    world.cut(left, right)
    world.run(3.0)
    world.leave("n1")
    world.run(2.0)
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.run(5.0)
    assert world.one_view()
    assert held(world, "n1") <= {Liveness.LEFT, Liveness.DEAD}
