"""A member that flaps waits: five seconds from its third start within a minute, then three times as long each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import node, pool

from rumormill.gossip import ProtocolSettings
from rumormill.gossip.lifecycle.flap_damping import LONGEST_PROBATION, REANNOUNCE_EVERY, probation
from rumormill.membership import Liveness, Readiness
from rumormill.simulations import World
from rumormill.simulations.factories import RumormillFactory, worker_profile


@pytest.mark.parametrize(
    ("ages", "seconds"),
    [
        ([], 0),
        ([0], 0),
        ([20, 0], 5),
        ([40, 20, 0], 15),
        ([60, 40, 20, 0], 45),
        ([80, 60, 40, 20, 0], 135),
        ([100, 80, 60, 40, 20, 0], LONGEST_PROBATION),
        ([70, 0], 0),
        ([61, 0], 0),
        ([300, 290, 0], 0),
        ([90, 80], 0),
        ([110, 90, 66, 0], 45),
    ],
)
def test_probation_by_the_ages_of_former_instances(ages: list[float], seconds: float) -> None:
    assert probation(ages, 5.0) == seconds
    assert probation(ages[::-1], 5.0) == seconds


@given(st.lists(st.floats(0, 1000), max_size=8))
def test_probation_is_bounded_and_none_where_it_is_turned_off(ages: list[float]) -> None:
    assert 0 <= probation(ages, 5.0) <= LONGEST_PROBATION
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
        world.resume("n3")
        world.run(3.0)
    assert node(world, "n0")._parts.flap_damping.death_ages("n3") == []
    assert readiness(world, "n3") is Readiness.PASSING


def test_who_says_goodbye_may_restart_as_often_as_it_likes() -> None:
    world = pool(4)
    for _ in range(7):
        world.leave("n3")
        world.run(1.0)
        world.restart("n3")
        assert world.run_until(lambda: readiness(world, "n3") is Readiness.PASSING, within=1.0) is not None
        world.run(11.0)
    assert world.history.of("probation") == []
    assert node(world, "n0")._parts.flap_damping.death_ages("n3") == []


def say(world: World, key: str, state: Readiness) -> None:
    member, now = node(world, key), world.hosts[key].local_time()
    if state is Readiness.CRITICAL:
        member.worker_failed(now)
    member.update(replace(worker_profile(key), readiness=state), now)


@pytest.mark.parametrize("downtime", [0.0, 0.3, 3.0])
def test_who_drains_before_its_end_has_not_flapped_either(downtime: float) -> None:
    """Whether its death is detected before its next instance starts, or not."""
    world = pool(4)
    for _ in range(5):
        say(world, "n3", Readiness.DRAINING)
        world.run(1.0)
        world.crash("n3")
        world.run(downtime)
        world.restart("n3")
        assert world.run_until(lambda: readiness(world, "n3") is Readiness.PASSING, within=2.0) is not None
        world.run(8.0)
    assert world.history.of("probation") == []


def test_a_worker_that_is_drained_may_fail() -> None:
    world = pool(3)
    for _ in range(5):
        for state in (Readiness.DRAINING, Readiness.CRITICAL, Readiness.DRAINING, Readiness.PASSING):
            if state is Readiness.CRITICAL:
                node(world, "n2").worker_failed(world.hosts["n2"].local_time())
            else:
                say(world, "n2", state)
            world.run(1.0)
    assert readiness(world, "n2") is Readiness.PASSING
    assert world.history.of("probation") == []


def test_a_goodbye_that_is_heard_after_the_eviction_is_no_flap() -> None:
    world = pool(5)
    world.cut_one_way(None, {"n0"})
    world.leave("n3")
    world.run(5.0)
    world.heal()
    assert world.run_until(lambda: world.liveness_of("n0", "n3") is Liveness.LEFT, within=10.0) is not None
    assert node(world, "n0")._parts.flap_damping.death_ages("n3") == []


def left_of(world: World, observer: str, subject: str) -> float | None:
    """Seconds of a probation, as an observer reports them."""
    watching = node(world, observer)
    [member] = [m for m in watching.view.members if m.name == subject]
    return watching.details(world.hosts[observer].local_time())[member.instance].probation


def test_every_member_can_tell_of_a_probation_and_for_how_long_it_lasts() -> None:
    world = pool(6)
    for _ in range(4):
        world.crash("n3")
        world.run(1.0)
        world.restart("n3")
        world.run(1.0)
    others = [name for name in world.running() if name != "n3"]
    assert 40 < node(world, "n3").probation < 45
    for name in others:
        assert left_of(world, name, "n3") == pytest.approx(node(world, "n3").probation, abs=0.5)
    told = [event for event in world.history.of("probation") if event.observer in others]
    assert {event.observer for event in told if "on probation for 45 s" in event.text} == set(others)
    world.run(REANNOUNCE_EVERY - 3)
    world.start_one("late")
    world.run(1.0)
    late = left_of(world, "late", "n3")
    assert late is not None
    assert 0 <= late - node(world, "n3").probation <= REANNOUNCE_EVERY
    world.crash("n5")  # a verdict about a member, and withdrawn or not, starts nothing anew
    world.freeze("n3")
    world.run(0.5)
    world.resume("n3")
    world.run(REANNOUNCE_EVERY)
    for name in ("n0", "n1", "n2", "n4", "late"):
        assert left_of(world, name, "n3") == pytest.approx(node(world, "n3").probation, abs=1.0)
    assert world.run_until(lambda: node(world, "n3").probation == 0, within=45.0) is not None
    world.run(0.5)
    assert {left_of(world, name, "n3") for name in world.running()} == {None}
    over = [event.observer for event in world.history.of("probation") if "no longer on probation" in event.text]
    assert set(over) >= {"n0", "n1", "n2", "n4", "late"}
    assert len(over) == len(set(over))


def test_a_member_of_another_period_is_named_with_both_values_on_both_sides() -> None:
    world = pool(4)
    world.start_one("slow", factory=RumormillFactory(settings=ProtocolSettings(period=0.5)))
    assert world.run_until(lambda: world.liveness_of("n1", "slow") is not None, within=3.0) is not None
    world.run(2.0)
    told = {(event.observer, event.member): event.text for event in world.history.of("period")}
    for name in ("n0", "n1", "n2", "n3"):
        assert "slow sends a heartbeat every 0.5 s, this member every 0.2 s" in told[name, "slow"]
        assert f"{name} sends a heartbeat every 0.2 s, this member every 0.5 s" in told["slow", name]
    assert len(told) == 8
    assert {m.name: m.period for m in node(world, "n2").view.members}["slow"] == 0.5


@pytest.mark.parametrize("before", [0.02, 0.06, 0.1, 0.14])
def test_whose_probation_ends_while_it_says_goodbye_has_left_all_the_same(before: float) -> None:
    world = pool(5)
    for _ in range(2):
        world.restart("n3")
        world.run(2.0)
    world.run(node(world, "n3")._parts.flap_damping.deadline - world.hosts["n3"].local_time() - before)
    assert readiness(world, "n3") is None
    world.leave("n3")
    world.run(3.0)
    assert {world.liveness_of(name, "n3") for name in ("n0", "n1", "n2", "n4")} == {Liveness.LEFT}
    assert not [event for event in world.history.of("returned") if event.member == "n3"]
