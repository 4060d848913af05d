"""After most datagrams a node recomputes only the failure detector's deadline. It still wakes at the earliest one."""

from __future__ import annotations

import pytest
from pools import pool

from rumormill.gossip import Node
from rumormill.simulations import Burst, LinkFault, World
from rumormill.simulations.host import SimulatedHost


def holds_its_earliest_deadline(host: SimulatedHost) -> None:
    node = host.node
    assert isinstance(node, Node)
    if not node._dispatch.waiting:
        assert node.deadline == min(part.deadline for part in node._in_order)


def watch_all(world: World) -> None:
    for host in world.hosts.values():
        host.watch = holds_its_earliest_deadline


@pytest.mark.parametrize("seed", range(2))
def test_a_node_wakes_at_the_earliest_of_its_deadlines_whatever_happens(seed: int) -> None:
    world = pool(8, seed)
    watch_all(world)
    world.degrade(LinkFault(loss=0.1, duplicate=0.05, jitter=0.002, burst=Burst(1.0, 0.1)))
    world.freeze("n3")
    world.run(0.9)
    world.resume("n3")
    world.crash("n1", "n2")
    world.run(1.2)
    world.restart("n1", new_address=True)
    watch_all(world)
    world.run(0.8)
    world.heal()
    world.cut({f"n{number}" for number in range(4, 8)})
    world.run(3.0)
    world.cut({"n5"})
    world.run(3.0)
    world.heal()
    world.jump_clock(5.0, "n5")
    world.run(2.0)
    world.leave("n4")
    world.run(10.0)
    assert {"evicted", "isolated", "rejoined", "paused", "returned", "left"} <= world.history.counts.keys()
