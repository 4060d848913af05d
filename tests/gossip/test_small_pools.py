"""Most of a small pool is lost at once. Refusals by the dead members' own kernels prove that this is no cut. Silence
does not: the survivor keeps its view for the isolation hold."""

from __future__ import annotations

import pytest
from pools import everyone_holds, node
from seeds import seeds

from rumormill.discovery.view import RoutingView
from rumormill.gossip import ProtocolSettings
from rumormill.membership import Liveness
from rumormill.membership.view import Connectivity
from rumormill.simulations import World
from rumormill.simulations.factories import SERVICE, RumormillFactory
from rumormill.simulations.invariant_checker import InvariantChecker

HOLD = 20.0
"""Seconds. The usual hold is a minute."""


def checked_pool(count: int, seed: int) -> World:
    world = World(seed=seed, factory=RumormillFactory(ProtocolSettings(isolation_hold=HOLD)))
    InvariantChecker(world)
    world.start(count)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.run(2.0)
    return world


def others(world: World, key: str = "n0") -> set[Liveness]:
    """What a member holds all others for."""
    return {member.liveness for member in node(world, key).view.members if member.name != key}


def first_owners(world: World, key: str = "n0") -> set[str]:
    """Whom a caller of this member's ``/v1/lookup`` tries first, for many keys."""
    view = RoutingView(process="test", wall_offset=0.0)
    view.update(node(world, key).view)
    service = view.service(SERVICE)
    routing = service.build_routing()
    return {service.owners(routing, f"user-{number}", 3)[0].name for number in range(60)}


def kill_all_but_the_first(world: World) -> None:
    world.crash(*[key for key in world.hosts if key != "n0"])


@pytest.mark.parametrize("seed", seeds(20))
@pytest.mark.parametrize("count", [3, 4, 5])
def test_where_the_dead_members_kernels_refuse_the_survivor_evicts_them_at_once(count: int, seed: int) -> None:
    world = checked_pool(count, seed)
    world.refuse()
    kill_all_but_the_first(world)
    assert world.run_until(lambda: others(world) == {Liveness.DEAD}, within=1.0) is not None, world.history.tail()
    world.run(2.0)
    assert node(world, "n0").connectivity is Connectivity.CONNECTED
    assert first_owners(world) == {"n0"}


@pytest.mark.parametrize("seed", seeds(20))
@pytest.mark.parametrize("count", [3, 4, 5])
def test_where_the_dead_fall_silent_they_are_tried_last_at_once_and_kept_for_the_hold(count: int, seed: int) -> None:
    world = checked_pool(count, seed)
    kill_all_but_the_first(world)
    assert world.run_until(lambda: Liveness.ALIVE not in others(world), within=1.0) is not None, world.history.tail()
    assert first_owners(world) == {"n0"}
    world.run(HOLD - 2.0)
    assert others(world) == {Liveness.SUSPECT}
    world.run(4.0)
    assert others(world) == {Liveness.DEAD}


@pytest.mark.parametrize("seed", seeds(10))
def test_one_refusing_kernel_proves_nothing_about_the_silent_rest(seed: int) -> None:
    """A member whose process died as the network was cut must not make the survivor evict the others."""
    world = checked_pool(4, seed)
    world.refuse()
    world.crash("n1")
    world.cut({"n0", "n1"}, {"n2", "n3"})
    assert world.run_until(lambda: Liveness.ALIVE not in others(world), within=2.0) is not None, world.history.tail()
    world.run(HOLD / 2)
    held = {member.name: member.liveness for member in node(world, "n0").view.members}
    assert held["n1"] is Liveness.DEAD
    assert (held["n2"], held["n3"]) == (Liveness.SUSPECT, Liveness.SUSPECT)
    assert node(world, "n0").view.isolated


@pytest.mark.parametrize("seed", seeds(10))
@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_side_of_one_keeps_its_view_and_the_other_side_goes_on_without_it(count: int, seed: int) -> None:
    """As docs/understand/protocol.md says of a cut."""
    world = checked_pool(count, seed)
    world.cut({"n0"})
    world.run(HOLD - 4.0)
    assert others(world) == {Liveness.SUSPECT}
    assert first_owners(world) == {"n0"}
    assert everyone_holds(world, "n0", Liveness.DEAD)
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    assert [c for c in world.history.of("evicted") if c.observer == "n0"] == []


@pytest.mark.parametrize("seed", seeds(10))
def test_two_equal_halves_each_go_on_alone(seed: int) -> None:
    """Neither has lost more than half, so neither waits. Callers of each are sent to its own workers."""
    world = checked_pool(4, seed)
    world.cut({"n0", "n1"}, {"n2", "n3"})
    world.run(5.0)
    for key, side in (("n0", {"n0", "n1"}), ("n3", {"n2", "n3"})):
        alive = {m.name for m in node(world, key).view.members if m.liveness is Liveness.ALIVE}
        assert alive == side
        assert first_owners(world, key) == side
    world.heal()
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
