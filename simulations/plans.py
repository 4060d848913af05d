"""Plans: the runs behind the figures of docs/understand/simulation.md, as data for worker processes.

A :class:`Job` holds everything that one run needs, and its key. Jobs are independent. So a plan can run on any number
of cores, be stopped, and be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from rumormill.gossip import ProtocolSettings
from rumormill.simulations.factories import RumormillFactory
from rumormill.simulations.lifeguard import GridCell, grid, sub_grid
from rumormill.simulations.operations import LATENCIES, Freeze, LatencyName, Run, Story
from rumormill.simulations.outcome import RunOutcome
from rumormill.simulations.protocol import NodeFactory
from rumormill.simulations.recorder import play
from rumormill.simulations.scenarios import find_scenario
from rumormill.simulations.swim import SwimFactory, SwimSettings
from rumormill.simulations.world import World

ProtocolName = Literal["rumormill", "swim-tuned", "swim-paper"]
TUNED = SwimSettings(period=0.125, timeout=0.06, suspicion_mult=0.6)
"""The baseline, tuned to rumormill's detection time. At 128 members the median survivor learns of a crash after 0.58 s
(rumormill: 0.53 s), for about as many datagrams."""
LIFEGUARD = "lifeguard "
EVICTION_COST = 1.0
"""The approximate extra cost of a freeze that ends in an eviction, in seconds of the whole idle pool."""


class Job(msgspec.Struct, frozen=True):
    """One run."""

    scenario: str
    """A scenario's name, or ``lifeguard C=.. D=.. I=..``."""
    nodes: int
    seed: int
    protocol: ProtocolName = "rumormill"
    loss: float = 0.0
    latency: LatencyName = "lan"
    period: float = 0.2

    @property
    def key(self) -> str:
        """Identifies the run in a file of outcomes."""
        return (
            f"{self.scenario}/{self.protocol}/n={self.nodes}/seed={self.seed}/loss={self.loss:g}"
            f"/{self.latency}/period={self.period:g}"
        )

    @property
    def cost(self) -> float:
        """The approximate cost in node-seconds of an idle pool, for a progress bar."""
        seconds = 0.0
        frozen = 0
        for operation in self.story().operations:
            if isinstance(operation, Run):
                missed = frozen if operation.seconds >= 2 * self.period else 0
                seconds += operation.seconds + EVICTION_COST * missed * min(1.0, operation.seconds / 1.5)
            frozen = len(operation.keys) if isinstance(operation, Freeze) else 0
        return self.nodes * seconds

    def story(self) -> Story:
        """Raises UnknownScenario, or ValueError for too few nodes."""
        return msgspec.structs.replace(self._plain_story(), latency=self.latency, period=self.period)

    def _plain_story(self) -> Story:
        if self.scenario.startswith(LIFEGUARD):
            settle = 20.0 if self.protocol == "swim-paper" else 3.0
            return GridCell.parse(self.scenario.removeprefix(LIFEGUARD)).story(
                self.seed, nodes=self.nodes, settle=settle
            )
        return find_scenario(self.scenario).story(nodes=self.nodes, seed=self.seed, loss=self.loss)

    def factory(self) -> NodeFactory:
        match self.protocol:
            case "rumormill":
                return RumormillFactory(settings=ProtocolSettings(period=self.period))
            case "swim-tuned":
                return SwimFactory(TUNED)
            case "swim-paper":
                return SwimFactory(SwimSettings())

    def run(
        self,
        *,
        on_world: Callable[[World], None] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> RunOutcome:
        """Run the story. ``on_world`` receives the world before the start, ``on_progress`` each virtual second."""
        return play(
            self.story(),
            factory=self.factory(),
            protocol=self.protocol,
            latency=LATENCIES[self.latency],
            settle=60.0 if self.protocol == "rumormill" else 10.0,
            on_world=on_world,
            on_progress=on_progress,
        )


class JobOutcome(msgspec.Struct, frozen=True):
    """A job with its outcome: one line of a file of outcomes."""

    job: Job
    outcome: RunOutcome


class UnknownPlan(LookupError):
    """There is no plan of that name. The text lists the plans."""


BASELINE: tuple[ProtocolName, ...] = ("swim-tuned", "swim-paper")
PROTOCOLS: tuple[ProtocolName, ...] = ("rumormill", *BASELINE)


def _scale(seeds: int) -> Iterator[Job]:
    """Start, detection, dissemination and traffic, by number of nodes."""
    for nodes in (3, 8, 16, 32, 64, 128, 256, 512, 1000, 2000):
        for seed in range(max(1, min(seeds, 2000 // nodes))):
            yield Job("crash", nodes, seed)


def _detection(seeds: int) -> Iterator[Job]:
    """Crashes at the sizes of published figures, for all protocols."""
    for nodes in (3, 16, 64, 128):
        for seed in range(seeds * max(1, 30 // nodes)):  # in a pool of three, each run has one crash
            yield Job("crash", nodes, seed)
        for seed in range(seeds):
            yield Job("crash", nodes, seed, "swim-tuned")
            yield Job("slow-crash", nodes, seed, "swim-paper")


def _bootstrap(seeds: int) -> Iterator[Job]:
    for seed in range(seeds):
        yield Job("bootstrap", 1000, seed)


def _split(seeds: int) -> Iterator[Job]:
    for seed in range(seeds):
        yield Job("even-split", 128, seed)


def _loss(seeds: int) -> Iterator[Job]:
    """Long quiet runs under independent loss: an hour of 16 nodes is 16 node-hours. One in 16 at 30 %."""
    for seed in range(seeds):
        yield Job("lossy-hour", 16, seed, loss=0.1)
        if seed % 16 == 0:
            yield Job("lossy-hour", 16, seed, loss=0.3)


def _anomalies(seeds: int) -> Iterator[Job]:
    """Every scenario at its default size, for rumormill and the baseline."""
    for scenario in (
        *("rack", "freeze", "even-split", "three-way-split", "small-split", "rolling-restart", "rolling-upgrade"),
        *("all-addresses", "one-slow", "flapping", "one-way-in", "heavy-loss", "lossy", "wan"),
    ):
        for seed in range(seeds):
            for protocol in ("rumormill", "swim-tuned"):
                yield Job(scenario, find_scenario(scenario).nodes, seed, protocol)


def _lifeguard(seeds: int) -> Iterator[Job]:
    """rumormill on the whole grid with one seed, and on the sub-grid with all seeds."""
    for cell in grid():
        yield Job(LIFEGUARD + cell.name, 128, 0)
    yield from (job for job in _sub_grid(seeds, ("rumormill",)) if job.seed)


def _lifeguard_baseline(seeds: int) -> Iterator[Job]:
    """The sub-grid with one seed. With more seeds, also the rest of the grid."""
    yield from _sub_grid(min(seeds, 1), BASELINE)
    known = set(sub_grid())
    for cell in grid():
        if seeds > 1 and cell not in known:
            for protocol in BASELINE:
                yield Job(LIFEGUARD + cell.name, 128, 0, protocol)


def _sub_grid(seeds: int, protocols: tuple[ProtocolName, ...]) -> Iterator[Job]:
    for cell in sub_grid():
        for seed in range(seeds):
            for protocol in protocols:
                yield Job(LIFEGUARD + cell.name, 128, seed, protocol)


def _timelines(_seeds: int) -> Iterator[Job]:
    """Small pools, whose timelines go into the report."""
    for scenario in ("even-split", "rack", "flapping", "rolling-restart"):
        yield Job(scenario, 24, 1)


PLANS: dict[str, tuple[str, Callable[[int], Iterator[Job]]]] = {
    "detection": ("crashes at 3, 16, 64 and 128 nodes, all protocols", _detection),
    "scale": ("all started at once, then crashes, from 3 to 2000 nodes", _scale),
    "bootstrap": ("1000 nodes started at once on one seed node", _bootstrap),
    "split": ("128 nodes split evenly for a minute, and healed", _split),
    "loss": ("hours of 10 % and 30 % loss at 16 nodes", _loss),
    "anomalies": ("every scenario at its default size, rumormill and the baseline", _anomalies),
    "lifeguard": ("Lifeguard's anomaly grid, and its sub-grid with more seeds", _lifeguard),
    "lifeguard-baseline": ("the sub-grid for plain SWIM, tuned and at the paper's settings", _lifeguard_baseline),
    "pictures": ("small pools whose timelines go into a report", _timelines),
}


def plan(name: str, seeds: int) -> list[Job]:
    """The jobs of a plan. Raises :class:`UnknownPlan`."""
    if name not in PLANS:
        raise UnknownPlan(f"there is no plan {name!r}; there are {', '.join(PLANS)}")
    return list(PLANS[name][1](seeds))
