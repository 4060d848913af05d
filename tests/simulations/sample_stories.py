"""Stories in which a broken protocol is seen to be broken, and the whole one passes."""

from __future__ import annotations

from rumormill.simulations import LinkFault, RumormillFactory, World
from rumormill.simulations.operations import Canary, Measure


def settle(world: World, count: int = 8) -> None:
    world.start(count)
    world.run(3.0)


def two_writers(world: World) -> None:
    """Two operators at once, at two members, and one after both."""
    settle(world)
    Canary("n1", "v2", 500).apply(world)
    Canary("n2", "v3", 500).apply(world)
    world.run(3.0)
    Canary("n3", "v2", 1000).apply(world)
    world.run(3.0)


def busy_worker(world: World) -> None:
    settle(world)
    Measure("n1", 0.5, 2).apply(world)
    world.run(3.0)


def latecomer(world: World) -> None:
    settle(world, 24)
    world.start(1)
    world.run(3.0)


def crash(world: World) -> None:
    settle(world)
    world.crash("n3")
    world.run(2.0)


def split(world: World) -> None:
    settle(world)
    world.cut({"n0", "n1", "n2", "n3"})
    world.run(10.0)
    world.heal()
    world.run(5.0)


def even_split_without_seed(world: World) -> None:
    settle(world, 9)
    world.crash("n0")
    world.run(5.0)
    world.cut({"n1", "n2", "n3", "n4"})
    world.run(10.0)
    world.heal()


def three_ways(world: World) -> None:
    settle(world, 12)
    world.cut({"n0", "n1", "n2", "n3"})
    world.cut({"n4", "n5", "n6", "n7"})
    world.run(10.0)
    world.heal()


def freeze(world: World) -> None:
    settle(world)
    world.freeze("n3")
    world.run(2.0)
    world.resume("n3")
    world.run(2.0)


def long_absence(world: World) -> None:
    """One is cut off until everyone gave it up, and comes back."""
    settle(world)
    world.cut({"n3"})
    world.run(5.0)
    world.heal()
    world.run(5.0)


def small_side_after_a_death(world: World) -> None:
    settle(world)
    world.crash("n4")
    world.run(2.0)
    world.cut({"n0", "n1"})
    world.run(5.0)
    world.heal()


def suspected_on_the_second(world: World) -> None:
    """A crash whose suspicion stands while the checker looks at everything."""
    settle(world)
    world.run(0.6)
    world.crash("n3")
    world.run(2.0)


def cut_off_at_a_death(world: World) -> None:
    settle(world)
    world.cut({"n5"})
    world.crash("n3")
    world.run(3.0)
    world.heal()
    world.run(1.0)


def asleep_at_a_return(world: World) -> None:
    """One sleeps while another is evicted and comes back, and then reads all of its mail at once."""
    settle(world)
    world.freeze("n3", "n5")
    world.run(1.0)
    world.resume("n3")
    world.run(3.0)
    world.resume("n5")


def small_side(world: World) -> None:
    settle(world)
    world.cut({"n0", "n1"})
    world.run(5.0)
    world.heal()


def heavy_loss(world: World) -> None:
    settle(world)
    world.degrade(LinkFault(loss=0.4))
    world.run(120.0)
    world.heal()


def stutter(world: World) -> None:
    """One stops for about as long as three misses take, again and again, on slow links, and is told nothing."""
    settle(world, 4)
    world.degrade(LinkFault(delay=0.05, jitter=0.02))
    world.cut_one_way(None, {"n3"})
    world.run(5.0)
    for turn in range(60):
        world.freeze("n3")
        world.run(0.60 + 0.002 * turn)
        world.resume("n3")
        world.run(1.0)
    world.heal()


def forgery(world: World) -> None:
    """Somebody answers whatever is sent with refusals that he makes up."""
    settle(world)
    world.refuse()
    world.degrade(LinkFault(forged=True))
    world.run(30.0)
    world.heal()


def departure(world: World) -> None:
    settle(world)
    world.run(4.0)
    world.leave("n3")
    world.run(2.0)


def restarts_at_once(world: World) -> None:
    """Most of a pool begins another instance, some of them several: for a while who holds which is anybody's guess."""
    world.start(6)
    world.run(1.1)
    world.restart("n0", "n1", "n3", "n4", new_address=True)
    world.run(1.6)
    world.restart("n0", "n1", "n3", "n4")
    world.restart("n4", new_address=True)
    world.restart("n0")
    world.run(0.3)
    world.restart("n3", "n4")
    world.run(1.0)


def stranger(world: World) -> None:
    """Somebody of another pool, who was given our addresses by mistake."""
    settle(world, 3)
    world.start_one("x", factory=RumormillFactory(cluster="other", keyring=None))
    world.run(3.0)
    world.crash("x")
