"""What a node shows of its pool: made when somebody asks, and the same as if somebody had asked all the time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from pools import node, pool

from rumormill.gossip import Profile
from rumormill.membership import PoolView
from rumormill.membership.record import Readiness
from rumormill.simulations import World

SIZE = 6
PROFILE = Profile(service="embed", url="http://127.0.0.1:9001")


def trouble(world: World, seed: int) -> None:
    """A few faults at random, some of which end, and words of a worker now and then."""
    rng = random.Random(seed)
    for _ in range(10):
        key = rng.choice(sorted(world.running()))
        match rng.randrange(5):
            case 0 if key != "n0":
                world.crash(key)
            case 1 if key != "n0":
                world.restart(key)
            case 2:
                world.cut({key})
            case 3:
                world.heal()
            case _:
                profile = replace(PROFILE, readiness=rng.choice([Readiness.PASSING, Readiness.WARNING]))
                world.command(key, lambda life, now, profile=profile: life.update(profile, now))
        world.run(rng.uniform(0.1, 1.5))


@pytest.mark.parametrize("seed", range(8))
def test_a_view_that_is_asked_for_late_is_the_one_that_was_there_all_along(seed: int) -> None:
    worlds = pool(SIZE, seed), pool(SIZE, seed)
    asked, left_alone = worlds
    views: list[PoolView] = []

    def ask() -> None:
        views.append(node(asked, "n0").view)
        asked.at(asked.now + 0.01, ask)

    ask()
    for world in worlds:
        trouble(world, seed)
    assert len(set(map(id, views))) > 3, "nothing ever changed"
    assert node(left_alone, "n0").view == node(asked, "n0").view


def test_it_says_since_when_and_not_since_it_was_asked() -> None:
    world = pool(4)
    world.crash("n3")
    world.run(30.0)
    (concluded,) = [said for said in world.history.of("evicted") if said.observer == "n0"]
    observer = node(world, "n0")
    (member,) = [member for member in observer.view.members if member.name == "n3"]
    assert observer._state.now - member.since == pytest.approx(world.now - concluded.at, abs=0.2)


def test_whoever_did_not_change_stays_the_same_object() -> None:
    world = pool(4)
    before = node(world, "n0").view
    assert node(world, "n0").view is before
    world.crash("n3")
    world.run(2.0)
    after = node(world, "n0").view
    assert after is not before
    same = [one is other for one, other in zip(before.members, after.members, strict=True)]
    assert same == [True, True, True, False]
