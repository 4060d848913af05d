"""A member that flaps waits: five seconds from its third start within a minute, then three times as long each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import node, pool

from rumormill.gossip.damping import LONGEST, probation
from rumormill.membership import Readiness
from rumormill.simulations import World
from rumormill.simulations.births import worker_profile


@pytest.mark.parametrize(
    ("ages", "seconds"),
    [
        ([], 0),
        ([0], 0),
        ([20, 0], 5),
        ([40, 20, 0], 15),
        ([60, 40, 20, 0], 45),
        ([80, 60, 40, 20, 0], 135),
        ([100, 80, 60, 40, 20, 0], LONGEST),
        ([70, 0], 0),
        ([61, 0], 0),
        ([300, 290, 0], 0),
        ([90, 80], 0),
        ([110, 90, 66, 0], 45),
    ],
)
def test_probation_by_the_ages_of_former_lives(ages: list[float], seconds: float) -> None:
    assert probation(ages, 5.0) == seconds
    assert probation(ages[::-1], 5.0) == seconds


@given(st.lists(st.floats(0, 1000), max_size=8))
def test_probation_is_bounded_and_none_where_it_is_turned_off(ages: list[float]) -> None:
    assert 0 <= probation(ages, 5.0) <= LONGEST
    assert probation(ages, 0.0) == 0


def readiness(world: World, subject: str, observer: str = "n0") -> Readiness | None:
    found = [m for m in node(world, observer).view.members if m.name == subject and m.routable]
    return found[0].readiness if found else None


def test_a_worker_killed_every_20_seconds_changes_the_ring_at_most_twice_a_minute_after_its_third_death() -> None:
    world = pool(6)
    routable = [True]
    deaths: list[float] = []
    changes: list[float] = []

    def run(seconds: float) -> None:
        end = world.now + seconds
        while world.now < end:
            world.run(0.05)
            there = readiness(world, "n3") is not None
            if there != routable[-1]:
                routable.append(there)
                changes.append(world.now)

    for _ in range(9):
        run(19.0)
        world.crash("n3")
        deaths.append(world.now)
        run(1.0)
        world.restart("n3")
    run(1.0)
    third = deaths[2] + 1.0  # its eviction belongs to that death
    per_minute = [sum(start < at <= start + 60 for at in changes) for start in (third, third + 30, third + 60)]
    assert max(per_minute) <= 2
    assert len([at for at in changes if at < third]) >= 4  # undamped, each death is two changes


def test_a_worker_that_keeps_failing_beside_a_living_sidecar_is_damped_too() -> None:
    world = pool(4)
    subject = node(world, "n3")
    changes: list[float] = []
    held = [True]

    def say(state: Readiness) -> None:
        now = world.hosts["n3"].local_time()
        if state is Readiness.CRITICAL:
            subject.worker_failed(now)
        subject.update(replace(worker_profile("n3"), readiness=state), now)

    def run(seconds: float) -> None:
        end = world.now + seconds
        while world.now < end:
            world.run(0.05)
            if (there := readiness(world, "n3") is not None) != held[-1]:
                held.append(there)
                changes.append(world.now)

    failures = []
    for _ in range(9):
        run(17.0)
        failures.append(world.now)
        say(Readiness.CRITICAL)
        run(3.0)
        say(Readiness.PASSING)
    third = failures[2] + 1.0
    assert len([at for at in changes if at < failures[1]]) == 2, "the first failure costs nothing but itself"
    assert max(sum(start < at <= start + 60 for at in changes) for start in (third, third + 30, third + 60)) <= 2


def test_two_starts_wait_for_nothing_and_probation_ends_by_itself() -> None:
    world = pool(4)
    world.restart("n3")
    world.run(2.0)
    assert readiness(world, "n3") is Readiness.PASSING
    world.restart("n3")
    world.run(2.0)
    assert readiness(world, "n3") is None
    assert 2.0 < node(world, "n3").probation < 3.5
    took = world.run_until(lambda: readiness(world, "n3") is Readiness.PASSING, within=5.0)
    assert took is not None
    assert node(world, "n3").probation == 0


def test_a_member_given_up_wrongly_has_not_flapped() -> None:
    world = pool(5)
    for _ in range(3):
        world.freeze("n3")
        world.run(3.0)
        world.thaw("n3")
        world.run(3.0)
    assert node(world, "n0")._damping.ends_of("n3") == []
    assert readiness(world, "n3") is Readiness.PASSING
