"""Votes of newcomers do not count where established members can vote. Deaths are detected as quickly all the same."""

from __future__ import annotations

import random

import pytest
from seeds import MORE_SEEDS

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
        held = (world.liveness_of(observer, name) for observer in observers for name in names)
        return not any(each in (Liveness.ALIVE, Liveness.SUSPECT) for each in held)

    return world.run_until(gone, within=5.0)


@pytest.mark.parametrize("members", [8, pytest.param(16, marks=MORE_SEEDS)])
def test_among_many_newcomers_a_death_is_detected_as_quickly(members: int) -> None:
    """Every few seconds a member dies and comes back, so most have soon been here for less than a minute."""
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


@MORE_SEEDS
@pytest.mark.parametrize("seed", [0, 3])
def test_while_all_members_are_replaced_within_a_minute_a_death_is_detected_as_quickly(seed: int) -> None:
    """Newcomers come under new names. At any time few established members are left; of four monitors, three are not."""
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


@pytest.mark.parametrize("machines", [1, *(pytest.param(machines, marks=MORE_SEEDS) for machines in (2, 3, 5))])
def test_on_few_machines_a_death_is_detected_as_quickly(machines: int) -> None:
    """The votes must come from two hosts, but the three nearest members may all live on one."""
    world = old_pool(12, seed=machines, machines=machines)
    took = []
    for key in list(world.hosts)[1:]:
        took.append(gone_everywhere(world, key))
        world.restart(key)
        world.run(5.0)
    assert all(each is not None and each <= LATEST for each in took), took


def test_when_a_machine_fails_the_members_left_on_one_host_suffice() -> None:
    world = old_pool(8, seed=3, machines=2)
    took = gone_everywhere(world, *(f"n{number}" for number in (1, 3, 5, 7)))
    assert took is not None
    assert took <= 2.0  # evictions of half a pool are deferred for a second (partition_guard.py)


def test_established_members_decide_without_the_newcomers() -> None:
    """Starting many processes gains nothing. Only established members decide, and they monitor whatever they must."""
    world = old_pool(4, seed=4)
    for number in range(20):
        world.start_one(f"m{number}")
    assert world.run_until(world.one_view, within=5.0) is not None
    took = gone_everywhere(world, "n3")
    assert took is not None
    assert took <= LATEST


def datagrams_a_second(world: World, seconds: float) -> float:
    """Datagrams that each member sends, from now on."""
    before = {key: node.counters["sent"] for key, node in world.running().items()}
    world.run(seconds)
    sent = sum(node.counters["sent"] - before[key] for key, node in world.running().items())
    return sent / seconds / len(before)


def test_a_pool_started_together_becomes_established_without_more_datagrams() -> None:
    """All members become established within a second, so none monitors extra subjects."""
    world = World(seed=6)
    world.start(12)
    world.run(20.0)
    calm = datagrams_a_second(world, 20.0)
    while world.now < ESTABLISHED_AFTER + 25.0:
        assert datagrams_a_second(world, 1.0) <= 1.1 * calm


@MORE_SEEDS
def test_a_pool_started_gradually_becomes_established_with_few_more_datagrams() -> None:
    """The first established members of 64 leave the others to their monitors, which are soon established too."""
    world = World(seed=6)
    world.start(64, over=10.0)
    world.run(20.0)
    calm = datagrams_a_second(world, 20.0)
    while world.now < ESTABLISHED_AFTER + 40.0:
        assert datagrams_a_second(world, 2.0) <= 1.2 * calm


def test_established_members_ping_newcomers_that_cannot_know_their_monitors() -> None:
    """Newcomers are pinged once a period. If they counted as missing, three times as many datagrams would be sent."""
    world = old_pool(8, seed=8)
    calm = datagrams_a_second(world, 20.0)
    for number in range(1, 7):
        world.crash(f"n{number}")
        world.run(3.0)
        world.restart(f"n{number}")
        world.run(1.0)
    assert datagrams_a_second(world, 20.0) <= 2 * calm


@MORE_SEEDS
@pytest.mark.parametrize(("seed", "over"), [(0, 4.0), (2, 4.0), (14, 4.0), (19, 4.0), (207, 45.0), (208, 30.0)])
def test_while_a_pool_becomes_established_a_death_is_detected_as_quickly(seed: int, over: float) -> None:
    """The first established members are few, stand at random places, and monitor a few others at most. Nobody requires
    their votes before two of them monitor each member."""
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


@MORE_SEEDS
def test_a_member_that_believes_votes_of_newcomers_still_votes_for_those_that_do_not() -> None:
    """Some members require established votes a moment before others do. Meanwhile newcomers take the places of the
    dead."""
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
