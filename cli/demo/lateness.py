"""How late this machine was: for how long processes that could have run waited for a processor.

Nothing that the pool promises in seconds covers that: a laptop that compiles something meanwhile keeps every process
of the demo waiting, a start-up most of all. Linux counts it for each process (/proc/PID/schedstat); where a kernel does
not, nothing is deducted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NANOSECONDS = 1e9


def waited(pid: int) -> float:
    """Seconds since its start in which this process waited for a processor; 0.0 where nobody knows."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / NANOSECONDS
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Lateness:
    """What processes had waited at one moment; how much more they have since."""

    before: Mapping[int, float]

    @classmethod
    def from_now(cls, pids: Iterable[int]) -> Self:
        return cls({pid: waited(pid) for pid in (*pids, os.getpid())})

    def seconds(self, pids: Iterable[int]) -> float:
        """Of whichever of these waited longest, those started since included, and of this process, which looks on."""
        return max(map(self._since, pids), default=0.0) + self._since(os.getpid())

    def _since(self, pid: int) -> float:
        return max(0.0, waited(pid) - self.before.get(pid, 0.0))
