"""Scenarios as data: each is one figure of docs/understand/results.md, with rumormill's bounds for it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.peers import callers, costs, measures
from bench.peers.systems import Conditions
from bench.peers.testbed import Measurements

MODES = ("silent host, all", "live kernel, all")
Statistic = Literal["median", "max", "number"]
EVERYBODY = ("rumormill", "memberlist", "kinship")


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on one of rumormill's figures."""

    what: str
    statistic: Statistic
    at_most: float

    def figure(self, measured: Measurements) -> float | None:
        """The figure; None if it was not measured."""
        if self.statistic == "number":
            return measured.numbers.get(self.what)
        samples = measured.samples.get(self.what)
        if not samples:
            return None
        return max(samples) if self.statistic == "max" else statistics.median(samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScenario:
    """A measure with its parameters, the systems to apply it to, and their size."""

    name: str
    about: str
    minutes: float
    """The approximate duration."""
    measure: Callable[..., None]
    size: int = 16
    parameters: Mapping[str, Any] = field(default_factory=dict)
    brief: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that change with ``--brief``, which is only a smoke test."""
    systems: tuple[str, ...] = EVERYBODY
    conditions: Conditions = field(default_factory=Conditions)
    bed: bool = True
    rounds: int = 0
    """In each round, each system has the machine to itself. 0: all systems run at once."""
    bounds: tuple[Bound, ...] = ()


def _none(what: str) -> Bound:
    return Bound(what, "number", 0)


def _crashes(size: int, minutes: float) -> PeerScenario:
    bounds = (
        Bound("silent host, all", "median", 0.6),
        Bound("silent host, all", "max", 0.8),
        Bound("live kernel, all", "median", 0.12),
        Bound("live kernel, all", "max", 0.35),
        _none(measures.FALSE_EVICTIONS),
    )
    return PeerScenario(
        name=f"crash-{size}",
        about=f"SIGKILL until all survivors know, N={size}",
        minutes=minutes,
        measure=measures.crashes,
        size=size,
        parameters={"times": 5},
        brief={"times": 1},
        rounds=4,
        bounds=bounds,
    )


def _idle(size: int, minutes: float) -> PeerScenario:
    bounds = (
        Bound("packets sent /s/node", "number", 20),
        Bound("bytes sent /s/node", "number", 2500),
        Bound("CPU beside memberlist's", "number", 2),
        Bound("RSS MB, median", "number", 60),
    )
    return PeerScenario(
        name=f"idle-{size}",
        about=f"the cost of an idle pool, N={size}",
        minutes=minutes,
        measure=costs.idle,
        size=size,
        parameters={"seconds": 60},
        brief={"seconds": 10},
        bounds=bounds,
    )


def _crowd(count: int, within: float, minutes: float) -> PeerScenario:
    return PeerScenario(
        name=f"crowd-{count}",
        about=f"{count} nodes in one process join one at once",
        minutes=minutes,
        measure=costs.crowds,
        size=0,
        bed=False,
        parameters={"times": 20, "count": count, "limit": 8.0},
        brief={"times": 1},
        systems=("rumormill", "memberlist"),
        bounds=(
            Bound("joined to one view", "max", within),
            _none("no view a second after it, or none in 8 s"),
            _none(measures.FALSE_EVICTIONS),
        ),
    )


def _loss(percent: int, seconds: float) -> PeerScenario:
    return PeerScenario(
        name=f"loss-{percent}",
        about=f"{percent} % of all incoming packets lost, {seconds / 60:g} minutes, no pings over TCP, N=16",
        minutes=seconds / 60 + 0.1,
        measure=measures.lossy,
        parameters={"seconds": seconds, "share": percent / 100},
        brief={"seconds": 10},
        conditions=Conditions(udp_only=True),
        bounds=(_none(measures.FALSE_EVICTIONS),),
    )


SCENARIOS = (
    _crashes(3, 4.0),
    _crashes(16, 4.3),
    _crashes(64, 5.3),
    PeerScenario(
        name="leave",
        about="SIGTERM until all others know it has left, N=16",
        minutes=1.8,
        measure=measures.leaves,
        parameters={"times": 20},
        brief={"times": 2},
        bounds=(Bound("leave, all", "median", 0.05), _none(measures.FALSE_EVICTIONS)),
    ),
    PeerScenario(
        name="worker-crash",
        about="the worker killed beside its sidecar (--worker-pid) until all others know, N=16",
        minutes=1.3,
        measure=measures.worker_crashes,
        parameters={"times": 20},
        brief={"times": 2},
        systems=("rumormill",),
        bounds=(Bound("worker crash, all", "median", 0.015),),
    ),
    _idle(16, 1.2),
    _idle(64, 1.5),
    _loss(10, 300.0),
    _loss(30, 120.0),
    PeerScenario(
        name="one-way-cut",
        about="one direction between two members cut, two minutes, N=16",
        minutes=2.1,
        measure=measures.one_way,
        parameters={"seconds": 120.0},
        brief={"seconds": 10.0},
        bounds=(_none(measures.FALSE_EVICTIONS),),
    ),
    PeerScenario(
        name="stops",
        about="one of 16 stopped for 0.3 to 1.5 s again and again, one minute",
        minutes=1.1,
        measure=measures.stops,
        parameters={"seconds": 60.0},
        brief={"seconds": 10.0},
        bounds=(
            _none(measures.FALSE_EVICTIONS),
            _none("evictions after stops of less than 0.4 s"),
            Bound("stopped to evicted everywhere", "max", 0.7),
            Bound("resumed to back everywhere", "max", 0.3),
        ),
    ),
    PeerScenario(
        name="starved",
        about="four of 16 pinned to one processor with stress-ng, at the lowest priority, one minute",
        minutes=1.1,
        measure=measures.starved,
        parameters={"seconds": 60.0, "count": 4},
        brief={"seconds": 10.0},
        bounds=(_none(measures.FALSE_EVICTIONS),),
    ),
    PeerScenario(
        name="partition",
        about="8 + 8 members split for 30 s, then healed",
        minutes=0.8,
        measure=measures.partition,
        parameters={"seconds": 30.0},
        brief={"seconds": 10.0},
        bounds=(Bound("healed to one view", "max", 2.0),),
    ),
    PeerScenario(
        name="partition-callers",
        about="the same, with 50 requests per second from each side",
        minutes=0.7,
        measure=callers.partition,
        parameters={"seconds": 30.0},
        brief={"seconds": 10.0},
        systems=("rumormill",),
        bounds=(_none("requests failed"), Bound("healed to one view", "max", 2.0)),
    ),
    _crowd(64, 1.0, 0.7),
    _crowd(128, 3.0, 1.7),
)


@dataclass(frozen=True, slots=True)
class Growth:
    """An upper bound on the ratio of rumormill's figure in a larger pool to that in a smaller one."""

    what: str
    larger: str
    smaller: str
    at_most: float


GROWTH = (
    Growth("silent host, all", "crash-64", "crash-3", 1.1),
    Growth("packets sent /s/node", "idle-64", "idle-16", 1.1),
)
