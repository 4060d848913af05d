"""Scenarios as data: each makes a story of one kind of fault for any number of nodes.

Every scenario starts all its members at once, lets them settle, applies its faults, and ends without active faults.
Times are virtual seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rumormill.simulations.network import Burst, LinkFault
from rumormill.simulations.operations import (
    AnyOperation,
    Crash,
    Cut,
    CutOneWay,
    Degrade,
    Freeze,
    Heal,
    LeavePool,
    Restart,
    Resume,
    Run,
    Slow,
    Start,
    Story,
)

Operations = list[AnyOperation]
SETTLE = 5.0


class UnknownScenario(LookupError):
    """There is no scenario of that name. The text lists the scenarios."""


@dataclass(frozen=True, slots=True)
class LabScenario:
    """A scenario: its name, a description, its default number of nodes, and a function that makes its operations."""

    name: str
    about: str
    nodes: int
    make: Callable[[int, random.Random], Operations]
    min_nodes: int = 2
    """The smallest number of nodes for which it makes sense."""

    def story(self, *, nodes: int, seed: int, loss: float = 0.0) -> Story:
        """The story for that many nodes. ``loss`` applies to every link once the members have settled.

        Raises ValueError for too few nodes.
        """
        if nodes < self.min_nodes:
            raise ValueError(f"scenario {self.name} needs at least {self.min_nodes} nodes, not {nodes}")
        operations: Operations = [Start(nodes), Run(SETTLE)]
        everywhere = Degrade(LinkFault(loss=loss))
        for operation in [everywhere, *self.make(nodes, random.Random(f"{self.name}/{nodes}/{seed}"))]:
            operations.append(operation)
            if isinstance(operation, Heal):
                operations.append(everywhere)
        if not loss:
            operations = [operation for operation in operations if operation is not everywhere]
        return Story(seed, tuple(operations), title=self.name)


def _names(first: int, last: int) -> tuple[str, ...]:
    """``n<first>`` up to, but not including, ``n<last>``."""
    return tuple(f"n{number}" for number in range(first, last))


def _some(count: int, nodes: int, rng: random.Random) -> tuple[str, ...]:
    """``count`` random members, never the seed."""
    return tuple(f"n{number}" for number in sorted(rng.sample(range(1, nodes), count)))


def _quiet(_nodes: int, _rng: random.Random) -> Operations:
    return [Run(30.0)]


def _bootstrap(_nodes: int, _rng: random.Random) -> Operations:
    return []


def _crash(nodes: int, rng: random.Random) -> Operations:
    """Up to ten crashes, one after another, each at a different phase of the period."""
    operations: Operations = []
    for key in _some(min(10, nodes // 2), nodes, rng):
        operations += [Crash((key,)), Run(3.0 + rng.random()), Restart((key,)), Run(4.0)]
    return operations


def _slow_crash(nodes: int, rng: random.Random) -> Operations:
    """The same, with more time for slow detectors."""
    operations: Operations = []
    for key in _some(min(5, nodes // 2), nodes, rng):
        operations += [Crash((key,)), Run(30.0 + rng.random()), Restart((key,)), Run(10.0)]
    return operations


def _freeze(nodes: int, rng: random.Random) -> Operations:
    operations: Operations = []
    for key in _some(min(10, nodes // 2), nodes, rng):
        operations += [Freeze((key,)), Run(3.0 + rng.random()), Resume((key,)), Run(3.0)]
    return operations


def _rack(nodes: int, rng: random.Random) -> Operations:
    return [Crash(_some(max(1, nodes // 10), nodes, rng)), Run(10.0)]


def _even_split(nodes: int, _rng: random.Random) -> Operations:
    return [Cut(_names(0, nodes // 2)), Run(60.0), Heal(), Run(5.0)]


def _three_way_split(nodes: int, _rng: random.Random) -> Operations:
    third = nodes // 3
    return [Cut(_names(0, third)), Cut(_names(third, 2 * third)), Run(60.0), Heal(), Run(5.0)]


def _small_split(nodes: int, _rng: random.Random) -> Operations:
    return [Cut(_names(0, max(1, nodes // 8))), Run(30.0), Heal(), Run(5.0)]


def _rolling_restart(nodes: int, _rng: random.Random) -> Operations:
    operations: Operations = []
    for key in _names(0, nodes):
        operations += [Restart((key,)), Run(2.0)]
    return operations


def _rolling_upgrade(nodes: int, _rng: random.Random) -> Operations:
    """As an orchestrator does it: leave, then start at another address."""
    operations: Operations = []
    for key in _names(1, nodes):
        operations += [LeavePool((key,)), Run(1.0), Restart((key,), new_address=True), Run(1.0)]
    return operations


def _all_addresses(nodes: int, _rng: random.Random) -> Operations:
    return [Restart(_names(0, nodes), new_address=True), Run(10.0)]


def _one_slow(nodes: int, rng: random.Random) -> Operations:
    slow = _some(1, nodes, rng)
    return [Slow(slow, 0.15), Run(60.0), Slow(slow, 0.0), Run(3.0)]


def _flapping(nodes: int, rng: random.Random) -> Operations:
    """One member is cut off again and again, each time for longer."""
    (key,) = _some(1, nodes, rng)
    operations: Operations = []
    for turn in range(20):
        operations += [Cut((key,)), Run(0.1 * (1 + turn)), Heal(), Run(1.0)]
    return operations


def _one_way_in(nodes: int, rng: random.Random) -> Operations:
    """Rapid, figure 9: one percent receive nothing, on and off every 20 s."""
    deaf = _some(max(1, nodes // 100), nodes, rng)
    operations: Operations = []
    for _ in range(3):
        operations += [CutOneWay((), deaf), Run(20.0), Heal(), Run(20.0)]
    return operations


def _heavy_loss_of_few(nodes: int, rng: random.Random) -> Operations:
    """Rapid, figure 10: one percent lose 80 % of what they send."""
    lossy = _some(max(1, nodes // 100), nodes, rng)
    return [Degrade(LinkFault(loss=0.8), sources=lossy), Run(60.0), Heal(), Run(5.0)]


def _wan(_nodes: int, _rng: random.Random) -> Operations:
    """Bursty loss: every link is bad for half a second per minute, with 80 ms of delay and jitter."""
    fault = LinkFault(burst=Burst(60.0, 0.5), delay=0.08, jitter=0.02)
    return [Degrade(fault), Run(120.0), Heal(), Run(5.0)]


def _lossy(_nodes: int, _rng: random.Random) -> Operations:
    return [Degrade(LinkFault(loss=0.1)), Run(120.0), Heal(), Run(3.0)]


def _lossy_hour(_nodes: int, _rng: random.Random) -> Operations:
    return [Run(60.0)] * 60


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        LabScenario("quiet", "nothing happens for half a minute", 128, _quiet),
        LabScenario("bootstrap", "all members start at once with one seed", 128, _bootstrap),
        LabScenario("crash", "members crash one after another", 128, _crash, min_nodes=3),
        LabScenario(
            "slow-crash", "members crash one after another, with half a minute for each", 128, _slow_crash, min_nodes=3
        ),
        LabScenario("freeze", "members freeze (SIGSTOP) for some seconds each", 128, _freeze, min_nodes=3),
        LabScenario("rack", "a tenth of all members crash at once", 128, _rack, min_nodes=4),
        LabScenario("even-split", "two halves are split for a minute", 128, _even_split, min_nodes=4),
        LabScenario("three-way-split", "three thirds are split for a minute", 128, _three_way_split, min_nodes=6),
        LabScenario(
            "small-split", "an eighth is cut off from the rest for half a minute", 128, _small_split, min_nodes=8
        ),
        LabScenario("rolling-restart", "members are restarted in place, one every two seconds", 16, _rolling_restart),
        LabScenario(
            "rolling-upgrade", "each member leaves and returns at a new address", 16, _rolling_upgrade, min_nodes=3
        ),
        LabScenario("all-addresses", "all members restart at new addresses at once", 32, _all_addresses),
        LabScenario("one-slow", "one member is short of CPU: each step is 150 ms late", 32, _one_slow, min_nodes=3),
        LabScenario("flapping", "one member is cut off again and again", 32, _flapping, min_nodes=3),
        LabScenario("one-way-in", "one percent receive nothing, on and off (Rapid)", 128, _one_way_in, min_nodes=4),
        LabScenario(
            "heavy-loss", "one percent lose 80 % of what they send (Rapid)", 128, _heavy_loss_of_few, min_nodes=4
        ),
        LabScenario("lossy", "every link loses one datagram in ten", 64, _lossy),
        LabScenario("lossy-hour", "an hour passes, with --loss on every link", 16, _lossy_hour),
        LabScenario("wan", "bursty loss on links of 80 ms with jitter", 64, _wan),
    )
}


def find_scenario(name: str) -> LabScenario:
    """Raises :class:`UnknownScenario`."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UnknownScenario(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}") from None
