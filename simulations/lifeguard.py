"""Lifeguard's anomaly grid (Dadgar, Phillips, Currey, DSN 2018): C of 128 members blocked in lock-step.

The C members are all frozen for D milliseconds, then run for I milliseconds, and so on. The paper runs each combination
for minutes and counts the members declared dead. Here a cell lasts 60 virtual seconds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rumormill.simulations.operations import AnyOperation, Freeze, Resume, Run, Start, Story

NODES = 128
CONCURRENT = (1, 4, 8, 12, 16, 20, 24, 28, 32)
DURATIONS_MS = (128, 512, 2048, 8192, 16384, 32768)
INTERVALS_MS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
SETTLE = 3.0


@dataclass(frozen=True, slots=True, order=True)
class GridCell:
    """One combination: how many members, how long blocked, how long running in between."""

    concurrent: int
    duration_ms: int
    interval_ms: int

    @property
    def name(self) -> str:
        return f"C={self.concurrent} D={self.duration_ms} I={self.interval_ms}"

    @classmethod
    def parse(cls, name: str) -> GridCell:
        """The cell with this ``name``. Raises ValueError."""
        match = re.fullmatch(r"C=(\d+) D=(\d+) I=(\d+)", name)
        if match is None:
            raise ValueError(f"a Lifeguard cell is named like 'C=4 D=2048 I=64', not {name!r}")
        return cls(*map(int, match.groups()))

    def story(self, seed: int, *, nodes: int = NODES, seconds: float = 60.0, settle: float = SETTLE) -> Story:
        """Repeat blocks for ``seconds`` after a settling time. The last block is cut short."""
        rng = random.Random(f"lifeguard/{self.name}/{seed}")
        blocked = tuple(f"n{number}" for number in sorted(rng.sample(range(1, nodes), self.concurrent)))
        operations: list[AnyOperation] = [Start(nodes), Run(settle)]
        left_ms = round(seconds * 1000)
        while left_ms > 0:
            block = min(self.duration_ms, left_ms)
            operations += [Freeze(blocked), Run(block / 1000), Resume(blocked), Run(self.interval_ms / 1000)]
            left_ms -= block + self.interval_ms
        return Story(seed, (*operations, Run(1.0)), title=f"lifeguard {self.name}")


def grid() -> Iterator[GridCell]:
    """Every cell of the grid."""
    for concurrent in CONCURRENT:
        for duration in DURATIONS_MS:
            for interval in INTERVALS_MS:
                yield GridCell(concurrent, duration, interval)


def sub_grid() -> Iterator[GridCell]:
    """A coarse subset of the grid, for more seeds."""
    for concurrent in (4, 32):
        for duration in (128, 2048, 16384):
            for interval in (4, 1024):
                yield GridCell(concurrent, duration, interval)
