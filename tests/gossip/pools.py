"""Pools for the protocol's tests: the real Node, real sealed bytes, virtual time."""

from __future__ import annotations

from rumormill.gossip import Node
from rumormill.membership import Liveness
from rumormill.simulations import World


def pool(count: int, seed: int = 1) -> World:
    """A pool whose members have found one another and agree."""
    world = World(seed=seed)
    world.start(count)
    assert world.run_until(world.one_view, within=3.0) is not None, world.history.tail()
    world.run(2.0)
    return world


def node(world: World, key: str) -> Node:
    running = world.node(key)
    assert isinstance(running, Node)
    return running


def held(world: World, subject: str) -> set[Liveness | None]:
    """The states in which the other members hold one member."""
    return set(world.observers_of(subject).values())


def everyone_holds(world: World, subject: str, liveness: Liveness) -> bool:
    return held(world, subject) == {liveness}


def sent(world: World) -> int:
    return sum(node(world, key).counters["sent"] for key in world.running())
