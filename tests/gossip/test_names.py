"""Joining, leaving, coming back, and keeping a name."""

from __future__ import annotations

import pytest
from pools import everyone_holds, node, pool
from seeds import MORE_SEEDS, seeds

from rumormill.discovery.schema.policy_bodies import POLICY_SCHEMA
from rumormill.gossip import Node, NodeConfig, Profile
from rumormill.membership import Liveness, Readiness
from rumormill.simulations import World


@pytest.mark.parametrize("count", [2, 8, pytest.param(64, marks=MORE_SEEDS)])
@pytest.mark.parametrize("seed", seeds(3))
def test_all_started_at_once_with_one_seed(count: int, seed: int) -> None:
    world = World(seed=seed)
    world.start(count)
    assert world.run_until(world.one_view, within=1.0) is not None, world.history.tail()
    world.run(5.0)
    assert world.one_view()
    assert {c.kind for c in world.history} <= {"joined"}


def test_the_seed_comes_last() -> None:
    """Everyone knows only the seed, and it is down for two seconds."""
    world = World(seed=5)
    world.start(8)
    world.crash("n0")
    world.run(2.0)
    world.restart("n0")
    assert world.run_until(world.one_view, within=2.0) is not None, world.history.tail()


def test_a_member_alone_is_no_error() -> None:
    world = World(seed=1)
    world.start(1)
    world.run(10.0)
    assert world.one_view()
    assert not node(world, "n0").joined
    assert node(world, "n0").is_connected


@pytest.mark.parametrize("down", [0.02, 0.3, 0.7, 3.0])
@pytest.mark.parametrize("new_address", [False, True])
def test_a_restart_is_back_within_a_second(down: float, new_address: bool) -> None:
    world = pool(5, seed=2)
    world.crash("n1")
    world.run(down)
    world.restart("n1", new_address=new_address)
    assert world.run_until(world.one_view, within=1.0) is not None, world.history.tail()
    world.run(5.0)
    assert world.one_view()
    assert node(world, "n1").generation == 2
    assert {c.member for c in world.history.of("evicted")} <= {"n1"}


def test_a_restart_in_a_pool_of_two() -> None:
    world = pool(2)
    world.crash("n1")
    world.restart("n1")
    assert world.run_until(world.one_view, within=1.0) is not None, world.history.tail()


@pytest.mark.parametrize("asked", ["n0", "n2"])
def test_a_second_live_node_of_a_name_is_told_who_holds_it(asked: str) -> None:
    world = pool(4)
    world.start_one("intruder", name="n2", contacts=[world.hosts[asked].address])
    world.run(2.0)
    (refused,) = [c.text for c in world.history.of("taken") if c.observer == "intruder"]
    assert "'n2' is taken" in refused
    assert f"{world.hosts['n2'].address[0]}:7946" in refused
    assert node(world, "n2").stopped is None
    assert {c.kind for c in world.history if c.observer != "intruder"} == {"newcomer"}, "no news of the holder itself"
    assert world.history.of("newcomer")[-1].text.endswith("left: said so itself"), "it said goodbye and was not missed"
    world.run(3.0)
    assert [m.name for m in node(world, "n0").view.members if m.liveness is Liveness.ALIVE] == ["n0", "n1", "n2", "n3"]


def test_one_name_on_both_sides_of_a_split_has_one_holder_after_it() -> None:
    world = pool(6, seed=3)
    world.cut({"n0", "n1", "n2"}, {"n3", "n4", "n5"})
    world.run(3.0)
    world.start_one("other", name="n5", contacts=[world.hosts["n0"].address])
    world.cut({"other"}, {"n3", "n4", "n5"})
    world.run(5.0)
    world.heal()
    world.run(10.0)
    holders = [key for key in ("n5", "other") if key in world.running()]
    assert len(holders) == 1, world.history.tail()
    assert world.one_view()


def test_a_departure_is_never_a_failure() -> None:
    world = pool(8)
    world.leave("n2")
    assert world.run_until(lambda: everyone_holds(world, "n2", Liveness.LEFT), within=0.5) is not None
    world.run(5.0)
    assert {c.kind for c in world.history if c.member == "n2"} == {"left"}
    world.restart("n2")
    assert world.run_until(world.one_view, within=1.0) is not None, world.history.tail()


def test_readiness_reaches_everyone_within_fifty_milliseconds() -> None:
    world = pool(32)
    subject = node(world, "n7")
    profile = subject.view.members[[m.name for m in subject.view.members].index("n7")]
    world.hosts["n7"].poke()
    subject.update(
        Profile(service=profile.service, url=profile.url, readiness=Readiness.CRITICAL), world.hosts["n7"].local_time()
    )
    world.hosts["n7"].poke()

    def known() -> bool:
        return all(
            m.readiness is Readiness.CRITICAL for view in world.views().values() for m in view.members if m.name == "n7"
        )

    assert world.run_until(known, within=0.2, every=0.005) is not None
    assert world.one_view() or world.run_until(world.one_view, within=1.0) is not None


def test_everyone_moves_to_new_addresses_one_by_one() -> None:
    world = pool(6, seed=4)
    for key in list(world.hosts):
        world.restart(key, new_address=True)
        world.run(1.5)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()


def test_two_pools_never_mix() -> None:
    """Two pools with the same key that know each other's addresses, under different labels, exchange nothing."""

    def other_label(start):  # type: ignore[no-untyped-def]
        label = "blue" if start.name in ("n0", "n1", "n2") else "green"
        return Node(
            NodeConfig(
                policy_schema=POLICY_SCHEMA,
                name=start.name,
                address=start.address,
                cluster=label,
                profile=Profile("s", "http://10.0.0.1:1", readiness=Readiness.PASSING),
                keyring=None,
                generation=start.generation,
            ),
            rng=start.rng,
            token_bytes=start.token_bytes,
            now=start.now,
        )

    world = World(seed=1, factory=other_label)
    world.start(6)
    world.run(5.0)
    assert [m.name for m in node(world, "n0").view.members] == ["n0", "n1", "n2"]
    assert node(world, "n0").counters["dropped_label"] > 0
    told = world.history.of("refused")
    lines = [c.text for c in told if c.observer == "n0"]
    assert 1 <= len(lines) == len(set(lines)), "one line about each, now and again"
    assert "--cluster" in told[0].text
