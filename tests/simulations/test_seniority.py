"""Votes of newcomers count for nothing where elders are there to ask; a death must be known as soon all the same."""

from __future__ import annotations

import random

import pytest

from rumormill.gossip.detection.voter_eligibility import ESTABLISHED_AFTER
from rumormill.membership import Liveness
from rumormill.simulations import World

LATEST = 0.8


def old_pool(members: int, *, seed: int, machines: int = 0) -> World:
    world = World(seed=seed, machines=machines)
    world.start(members)
    world.run(ESTABLISHED_AFTER + 20.0)
    assert world.one_view()
    return world


def gone_everywhere(world: World, *keys: str) -> float | None:
    """Crash members; seconds until none of the others holds any of them present."""
    names = [world.name_of(key) for key in keys]
    observers = [key for key in world.running() if key not in keys]
    world.crash(*keys)

    def gone() -> bool:
        held = (world.holds(observer, name) for observer in observers for name in names)
        return not any(each in (Liveness.ALIVE, Liveness.SUSPECT) for each in held)

    return world.run_until(gone, within=5.0)


@pytest.mark.parametrize("members", [8, 16])
def test_where_most_are_newcomers_a_death_is_known_as_soon(members: int) -> None:
    """Every few seconds a member dies and comes back: soon most have been here for less than a minute."""
    world, rng = old_pool(members, seed=members), random.Random(members)
    took = []
    for _ in range(20):
        key = rng.choice(list(world.hosts)[1:])
        took.append(gone_everywhere(world, key))
        world.run(2.0)
        world.restart(key)
        world.run(2.0 + 2.0 * rng.random())
    assert all(each is not None and each <= LATEST for each in took), took
    assert world.history.of("evicted", "n0") == []


@pytest.mark.parametrize("seed", [0, 3])
def test_where_everybody_is_replaced_within_a_minute_a_death_is_known_as_soon(seed: int) -> None:
    """Newcomers under new names: a few elders are left at any time, and three of four monitors are none."""
    world, rng = World(seed=seed), random.Random(seed)
    world.start(16)
    world.run(10.0)
    took = []
    for number in range(50):
        took.append(gone_everywhere(world, rng.choice([key for key in world.running() if key != "n0"])))
        world.run(rng.random())
        world.start_one(f"x{number}")
        world.run(1.0 + rng.random())
    assert all(each is not None and each <= LATEST for each in took), took


@pytest.mark.parametrize("machines", [1, 2, 3, 5])
def test_on_few_machines_a_death_is_known_as_soon(machines: int) -> None:
    """The votes must come from two hosts, and a member's next three may all live on one."""
    world = old_pool(12, seed=machines, machines=machines)
    took = []
    for key in list(world.hosts)[1:]:
        took.append(gone_everywhere(world, key))
        world.restart(key)
        world.run(5.0)
    assert all(each is not None and each <= LATEST for each in took), took


def test_a_machine_that_fails_takes_its_members_with_it_and_those_left_on_one_host_agree() -> None:
    world = old_pool(8, seed=3, machines=2)
    took = gone_everywhere(world, *(f"n{number}" for number in (1, 3, 5, 7)))
    assert took is not None
    assert took <= 2.0  # half a pool at once waits a second (isolation.py)


def test_two_that_are_old_agree_without_the_newcomers() -> None:
    """Nothing is won by starting many: the elders alone decide, and they see to it that they can."""
    world = old_pool(4, seed=4)
    for number in range(20):
        world.start_one(f"m{number}")
    assert world.run_until(world.one_view, within=5.0) is not None
    took = gone_everywhere(world, "n3")
    assert took is not None
    assert took <= LATEST


def datagrams_a_second(world: World, seconds: float) -> float:
    """What each member sends, from now on."""
    before = {key: node.counters["sent"] for key, node in world.running().items()}
    world.run(seconds)
    sent = sum(node.counters["sent"] - before[key] for key, node in world.running().items())
    return sent / seconds / len(before)


def test_a_pool_comes_of_age_without_a_word_more() -> None:
    """All were started together, and all come to count as elders within a second: nobody makes more of it."""
    world = World(seed=6)
    world.start(12)
    world.run(20.0)
    calm = datagrams_a_second(world, 20.0)
    while world.now < ESTABLISHED_AFTER + 25.0:
        assert datagrams_a_second(world, 1.0) <= 1.1 * calm


def test_nor_does_one_that_was_started_one_after_the_other() -> None:
    """The first elders of 64 leave the others to their monitors, who are about to be elders as well."""
    world = World(seed=6)
    world.start(64, over=10.0)
    world.run(20.0)
    calm = datagrams_a_second(world, 20.0)
    while world.now < ESTABLISHED_AFTER + 40.0:
        assert datagrams_a_second(world, 2.0) <= 1.2 * calm


def test_elders_do_not_miss_newcomers_that_cannot_know_them() -> None:
    """They are pinged once a period: taken for missing instead, they cost three times as many datagrams."""
    world = old_pool(8, seed=8)
    calm = datagrams_a_second(world, 20.0)
    for number in range(1, 7):
        world.crash(f"n{number}")
        world.run(3.0)
        world.restart(f"n{number}")
        world.run(1.0)
    assert datagrams_a_second(world, 20.0) <= 2 * calm


@pytest.mark.parametrize(("seed", "over"), [(0, 4.0), (2, 4.0), (14, 4.0), (19, 4.0), (207, 45.0), (208, 30.0)])
def test_in_the_seconds_in_which_a_pool_comes_of_age_a_death_is_known_as_soon(seed: int, over: float) -> None:
    """The first elders are few, stand where they happen to, and each watches a few others at most: nobody waits for
    their word before two watch everyone."""
    world, rng = World(seed=seed), random.Random(seed)
    world.start(1)
    for number in range(1, 40):
        world.start_one(f"n{number}")
        world.run(over / 20 * rng.random())
    world.run(max(0.0, ESTABLISHED_AFTER - 1.0 - world.now))
    took = []
    while world.now < ESTABLISHED_AFTER + 10.0 + 0.6 * over and len(world.running()) > 14:
        took.append(gone_everywhere(world, rng.choice(list(world.running()))))
        world.run(0.3 * rng.random())
    assert all(each is not None and each <= LATEST for each in took), took


def test_who_believes_a_death_on_votes_of_newcomers_still_casts_the_one_that_others_wait_for() -> None:
    """For some a pool is of age a moment before it is for others, whose word they ask for; newcomers take the places of
    the dead meanwhile."""
    world, rng = World(seed=4), random.Random(4)
    world.start(1)
    for number in range(1, 64):
        world.start_one(f"n{number}")
        world.run(30 / 64 * rng.random())
    world.run(30.0)
    took = []
    while world.now < ESTABLISHED_AFTER + 20.0:
        took.append(gone_everywhere(world, rng.choice(list(world.running()))))
        world.run(0.1)
        world.start_one(f"x{len(took) - 1}")
        world.run(0.4 + 0.4 * rng.random())
    assert all(each is not None and each <= LATEST for each in took), took
