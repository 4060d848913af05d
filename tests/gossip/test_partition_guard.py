"""A member that is cut off knows it, and in which way. It stays in one state during the cut, and reports little."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from pools import everyone_holds, held, node
from seeds import MORE_SEEDS, seeds

from rumormill.gossip.detection.mute_detector import MuteDetector
from rumormill.membership import Liveness, Readiness
from rumormill.membership.view import Connectivity
from rumormill.simulations import LinkFault, World
from rumormill.simulations.invariant_checker import InvariantChecker

TWO_MINUTES = 120
CUT = 3.0
"""Seconds after which a cut has been noticed. The tests check that the state then stays the same."""


def checked_pool(count: int, seed: int = 1) -> World:
    world = World(seed=seed)
    InvariantChecker(world)
    world.start(count)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.run(2.0)
    return world


def sends(world: World, key: str, seconds: float) -> float:
    """Datagrams a second of one member, from now on."""
    before = node(world, key).counters["sent"]
    world.run(seconds)
    return (node(world, key).counters["sent"] - before) / seconds


def states_seen(world: World, key: str, seconds: int) -> set[Connectivity]:
    """The connectivity of a member, sampled ten times a second."""
    seen = set()
    for _ in range(10 * seconds):
        world.run(0.1)
        seen.add(node(world, key).connectivity)
    return seen


def events_of(world: World, key: str, since: int) -> Counter[str]:
    return Counter(event.kind for event in list(world.history)[since:] if event.observer == key)


def views(world: World, key: str) -> set[Liveness]:
    """What a member holds the others for."""
    return {member.liveness for member in node(world, key).view.members if member.name != key}


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("count", [2, 3, 6, pytest.param(16, marks=MORE_SEEDS)])
def test_a_member_that_nobody_hears_knows_it_until_the_cut_ends(count: int, seed: int) -> None:
    world = checked_pool(count, seed)
    idle = sends(world, "n1", 20.0)
    begun = len(world.history)
    world.cut_one_way({"n1"}, None)
    sent = node(world, "n1").counters["sent"]
    world.run(CUT)
    assert states_seen(world, "n1", TWO_MINUTES) == {Connectivity.MUTE}
    assert (node(world, "n1").counters["sent"] - sent) / (CUT + TWO_MINUTES) <= 2 * idle
    assert everyone_holds(world, "n1", Liveness.DEAD)
    events = events_of(world, "n1", begun)
    assert (events["isolated"], events["rejoined"]) == (1, 0)
    assert sum(events.values()) <= 12
    if count > 2:
        assert views(world, "n1") == {Liveness.ALIVE}, "it hears them"
    world.heal()
    assert world.run_until(world.one_view, within=1.0) is not None, world.history.tail()
    assert world.run_until(lambda: node(world, "n1").is_connected, within=0.5) is not None
    assert events_of(world, "n1", begun)["rejoined"] == 1


def test_a_mute_member_notices_the_death_of_another() -> None:
    """Nobody tells it, but within two minutes it notices which member it no longer hears."""
    world = checked_pool(6)
    world.cut_one_way({"n1"}, None)
    world.run(CUT)
    world.crash("n2")
    world.run(TWO_MINUTES + 30)
    assert {m.name for m in node(world, "n1").view.members if m.liveness is Liveness.SUSPECT} == {"n2"}
    world.heal()
    assert world.run_until(lambda: everyone_holds(world, "n2", Liveness.DEAD), within=3.0), world.history.tail()


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("count", [3, 6, pytest.param(16, marks=MORE_SEEDS)])
def test_a_member_that_hears_nobody_knows_it_until_the_cut_ends(count: int, seed: int) -> None:
    """After a minute it evicts the others, but it keeps sending heartbeats, so they do not evict it."""
    world = checked_pool(count, seed)
    idle = sends(world, "n1", 20.0)
    begun = len(world.history)
    world.cut_one_way(None, {"n1"})
    sent = node(world, "n1").counters["sent"]
    world.run(CUT)
    assert views(world, "n1") == {Liveness.SUSPECT}
    assert states_seen(world, "n1", TWO_MINUTES) == {Connectivity.DEAF}
    assert (node(world, "n1").counters["sent"] - sent) / (CUT + TWO_MINUTES) <= 2 * idle
    assert held(world, "n1") == {Liveness.ALIVE}
    events = events_of(world, "n1", begun)
    assert (events["isolated"], events["rejoined"]) == (1, 0)
    assert views(world, "n1") == {Liveness.DEAD}
    world.heal()
    assert world.run_until(lambda: world.one_view() and node(world, "n1").is_connected, within=1.0), (
        world.history.tail()
    )


def test_a_deaf_member_still_tells_the_others_of_its_worker() -> None:
    world = checked_pool(6)
    world.cut_one_way(None, {"n1"})
    world.run(10.0)
    deaf = node(world, "n1")
    profile = replace(deaf._state.identity.profile, readiness=Readiness.CRITICAL)
    world.command("n1", lambda _, now: deaf.update(profile, now))
    world.run(1.0)
    readiness = {m.readiness.word for key in world.running() for m in node(world, key).view.members if m.name == "n1"}
    assert readiness == {"critical"}


def test_one_member_that_cannot_hear_us_does_not_isolate_us() -> None:
    world = checked_pool(6)
    world.cut_one_way({"n1"}, {"n2"})
    seen = states_seen(world, "n1", 60)
    assert seen == {Connectivity.CONNECTED}
    assert world.history.of("evicted") == []


@MORE_SEEDS
@pytest.mark.parametrize("seed", range(3))
def test_loss_isolates_nobody(seed: int) -> None:
    world = checked_pool(8, seed)
    world.degrade(LinkFault(loss=0.3))
    world.run(120.0)
    assert world.history.of("isolated") == []


def test_a_false_accuser_can_make_us_ping_but_not_isolate_us() -> None:
    """It repeats forever that it holds us dead at an earlier incarnation."""
    world = checked_pool(5)
    member, accuser = node(world, "n1"), node(world, "n2")
    member._state.raise_incarnation()
    mute_detector: MuteDetector = member._parts.partition_guard.mute_detector
    row = member.table.get(accuser._state.me.member_id)
    assert row is not None
    for _ in range(100):
        mute_detector.on_accusation(row, 1)
        world.run(0.1)
    assert member.connectivity is Connectivity.CONNECTED
    assert world.history.of("isolated") == []


@pytest.mark.parametrize("seed", seeds(5))
@pytest.mark.parametrize(("count", "killed"), [(3, 2), (4, 3), (6, 4), (8, 5), (16, 15)])
def test_many_that_die_at_once_are_evicted_at_once_if_their_kernels_refuse(count: int, killed: int, seed: int) -> None:
    """Refusals show that this is no cut, so nobody waits for a minute, however few are left."""
    world = checked_pool(count, seed)
    world.refuse()
    world.run(0.037 * seed)
    dead = {f"n{number}" for number in range(1, 1 + killed)}
    begun = len(world.history)
    world.crash(*dead)
    evicted = lambda: all(everyone_holds(world, key, Liveness.DEAD) for key in dead)  # noqa: E731
    assert world.run_until(evicted, within=1.5) is not None, world.history.tail()
    world.run(90.0)
    for key in world.running():
        assert node(world, key).connectivity is Connectivity.CONNECTED
        assert events_of(world, key, begun)["isolated"] == events_of(world, key, begun)["rejoined"] <= 1


@pytest.mark.parametrize(("count", "killed"), [(3, 2), (4, 3), (16, 15)])
def test_many_that_fall_silent_may_be_cut_off_and_are_not_evicted_for_a_minute(count: int, killed: int) -> None:
    world = checked_pool(count)
    world.crash(*(f"n{number}" for number in range(1, 1 + killed)))
    world.run(CUT)
    for _ in range(50):
        world.run(1.0)
        assert views(world, "n0") == {Liveness.SUSPECT}
        assert node(world, "n0").connectivity is Connectivity.DEAF
    world.run(60.0)
    assert Liveness.DEAD in views(world, "n0")
    assert node(world, "n0").connectivity is Connectivity.DEAF, "nothing has shown that they are gone"
    world.restart("n1")
    assert world.run_until(lambda: node(world, "n0").is_connected, within=2.0) is not None


def test_refusals_of_some_do_not_evict_others_that_are_cut_off() -> None:
    """n4 and n5 are killed beside n0 on one side of a cut; n1, n2 and n3 are beyond it."""
    world = checked_pool(6)
    world.refuse()
    world.cut({"n0", "n4", "n5"}, {"n1", "n2", "n3"})
    world.run(0.05)
    world.crash("n4", "n5")
    world.run(30.0)
    of = {m.name: m.liveness for m in node(world, "n0").view.members}
    assert (of["n4"], of["n5"]) == (Liveness.DEAD, Liveness.DEAD)
    assert {of["n1"], of["n2"], of["n3"]} == {Liveness.SUSPECT}
    assert not node(world, "n0").is_connected


def test_a_deaf_member_evicts_nobody_on_false_refusals() -> None:
    """Somebody on the path forges refusals, but cannot read the sealed pings."""
    world = checked_pool(3)
    world.degrade(LinkFault(forged=True))
    world.cut_one_way(None, {"n0"})
    world.run(50.0)
    assert views(world, "n0") == {Liveness.SUSPECT}
    assert world.history.of("evicted") == []
