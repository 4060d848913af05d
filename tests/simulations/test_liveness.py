"""What must happen, and how soon. Bounds come from the settings (rumormill.simulations.liveness_bounds), not from
experience."""

from __future__ import annotations

import itertools

import pytest
from seeds import MORE_SEEDS, seeds

from rumormill.gossip import ProtocolSettings
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Ping, encode_message
from rumormill.membership import Address, Liveness, MemberState
from rumormill.simulations import RumormillFactory, World
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.lifeguard import GridCell
from rumormill.simulations.liveness_bounds import LivenessBounds
from rumormill.simulations.recorder import play


def patience(nodes: int, period: float = 0.2) -> LivenessBounds:
    return LivenessBounds(ProtocolSettings(period=period), nodes, nodes)


def settled(nodes: int, seed: int, period: float = 0.2) -> tuple[World, InvariantChecker]:
    settings = ProtocolSettings(period=period)
    world = World(seed=seed, factory=RumormillFactory(settings=settings))
    checker = InvariantChecker(world, settings)
    world.start(nodes)
    assert world.run_until(world.one_view, within=3.0) is not None
    world.run(1.0 + 0.037 * seed)
    return world, checker


def known_dead_after(world: World, key: str, bound: float) -> float | None:
    """Seconds until everyone holds a member dead; None if that takes longer than the bound."""

    def known() -> bool:
        return all(held is Liveness.DEAD for held in world.observers_of(key).values())

    return world.run_until(known, within=bound)


@pytest.mark.parametrize(
    ("nodes", "period"),
    [(2, 0.2), (3, 0.2), (5, 0.2), (16, 0.2), pytest.param(48, 0.2, marks=MORE_SEEDS), (16, 0.1), (16, 1.0)],
)
@pytest.mark.parametrize("seed", seeds(4))
def test_a_crash_is_known_everywhere_within_the_bound(nodes: int, period: float, seed: int) -> None:
    world, _ = settled(nodes, seed, period)
    world.crash("n1")
    bound = patience(nodes, period).detection
    assert known_dead_after(world, "n1", bound) is not None


@pytest.mark.parametrize("seed", seeds(4))
def test_a_member_that_was_frozen_before_is_missed_as_soon_as_the_first_time(seed: int) -> None:
    """The pings it answers on waking tell how long it slept, and nothing about the way to it."""
    world, _ = settled(16, seed)
    for _ in range(5):
        world.freeze("n3")
        assert known_dead_after(world, "n3", patience(16).detection) is not None
        world.run(1.0)
        world.resume("n3")
        world.run(1.0)


@MORE_SEEDS
@pytest.mark.parametrize("seed", [0, 1])
def test_many_that_wake_together_are_back_everywhere_at_once(seed: int) -> None:
    """Pushes that go to too few miss somebody; a sync that waits for a difference to persist finds it late."""
    blocks = play(GridCell(30, 1500, 1000).story(seed, nodes=128, seconds=5.0)).blocks
    assert len(blocks) == 60
    assert all(block.evicted_by >= 98 for block in blocks), "somebody who slept was never missed"
    assert all(not b.missing and b.back_after is not None and b.back_after <= 0.3 for b in blocks)


@pytest.mark.parametrize("seed", seeds(4))
def test_a_member_that_dies_with_all_its_monitors_is_found_too(seed: int) -> None:
    world, _ = settled(24, seed)
    details = world.node("n1").view
    instance = next(m.instance for m in details.members if m.name == "n1")
    node = world.node("n2")
    monitors = node.details(0.0)[instance].monitors  # type: ignore[attr-defined]
    world.crash("n1", *monitors)
    bound = patience(24).unwatched_detection
    assert known_dead_after(world, "n1", bound) is not None


@pytest.mark.parametrize("seed", seeds(3))
def test_pauses_shorter_than_two_periods_are_never_an_eviction(seed: int) -> None:
    world, _ = settled(8, seed)
    for number, turn in itertools.product(range(1, 8), range(4)):
        world.freeze(f"n{number}")
        world.run(0.39)
        world.resume(f"n{number}")
        world.run(0.31 + 0.05 * turn)
    assert world.history.of("evicted") == []


@pytest.mark.parametrize("seed", seeds(3))
def test_all_are_back_in_one_view_after_everyone_was_alone(seed: int) -> None:
    world, checker = settled(9, seed)
    for key in world.hosts:
        world.cut({key})
    world.run(20.0)
    world.heal()
    assert checker.check_convergence() <= 3.0


def test_a_one_way_link_settles() -> None:
    world, _ = settled(8, 1)
    world.cut_one_way({"n1"}, {"n2"})
    world.cut_one_way({"n3"}, {"n1"})
    world.run(60.0)
    assert world.history.of("evicted") == []
    late = [c for c in world.history if c.at > world.now - 30.0]
    assert len(late) < 30, "it flaps"


def test_everybody_is_probed_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = settled(6, 1)
    pinged: set[tuple[str, str]] = set()
    outward = NodeState.post

    def notice(self: NodeState, address: Address, member: MemberState, messages: list[bytes]) -> None:
        if any(message[:2] == encode_message(Ping(bytes(8)))[:2] for message in messages):
            pinged.add((self.me.name, member.name))
        outward(self, address, member, messages)

    monkeypatch.setattr(NodeState, "post", notice)
    world.run(2 * 6 * ProtocolSettings().slow_probe * 1.1)
    assert pinged == set(itertools.permutations(world.hosts, 2))


@pytest.mark.parametrize("seed", seeds(4))
def test_leaving_never_looks_like_failure(seed: int) -> None:
    world, checker = settled(12, seed)
    for number in range(1, 12, 2):
        world.leave(f"n{number}")
        world.run(0.4)
    checker.check_convergence()
    assert world.history.of("evicted") == []
    assert world.history.of("suspected") == []


def test_a_goodbye_that_is_lost_once_is_heard_the_second_time() -> None:
    for nodes in (2, 12):
        world, checker = settled(nodes, seed=1)
        world.cut({"n1"})
        world.leave("n1")
        world.run(0.05)
        world.heal()
        world.run(1.0)
        checker.check_convergence()
        assert world.history.of("left", "n1") != []
        assert world.history.of("suspected") == []
