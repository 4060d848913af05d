"""One seed gives one trace of the real Node, on every machine and Python that runs these tests.

Who changes what the protocol sends, or when, changes this trace: put the new one here in that commit, and say why the
protocol sends something else now. A trace that moved without such a change is a lost determinism (a set iterated over,
a ``hash()``, a clock, randomness that is not the state's own).
"""

from __future__ import annotations

from rumormill.simulations import Burst, LinkFault, World

TRACE = "ff75d0bcfe317bd7f0fa7d3b14fc83f6"


def story(seed: int) -> World:
    """A bit of everything: loss, a pause, deaths, a split, a new address, a departure."""
    world = World(seed=seed)
    world.start(7)
    world.run(1.5)
    world.degrade(LinkFault(loss=0.1, duplicate=0.05, jitter=0.002, burst=Burst(1.0, 0.1)))
    world.freeze("n3")
    world.run(0.9)
    world.resume("n3")
    world.crash("n1")
    world.run(1.2)
    world.restart("n1", new_address=True)
    world.run(0.8)
    world.heal()
    world.cut({"n0", "n2"})
    world.run(2.0)
    world.heal()
    world.run(1.0)
    world.leave("n4")
    world.run(1.0)
    return world


def test_one_seed_gives_the_real_node_one_trace_on_every_machine() -> None:
    world = story(11)
    assert world.one_view()
    assert {"evicted", "returned", "left", "refuted"} <= world.history.counts.keys()
    assert world.trace.digest() == TRACE
    assert story(12).trace.digest() != TRACE
