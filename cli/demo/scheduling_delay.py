"""Measures how long processes that could run have waited for a processor.

This delay is caused by the machine and not by the pool, so it is deducted from the times that the pool promises. A
laptop that compiles something meanwhile delays every process of the demo, most of all while one starts. Linux counts
the delay for each process (/proc/PID/schedstat). If the kernel does not, nothing is deducted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

NANOSECONDS = 1e9


def run_queue_wait(pid: int) -> float:
    """Seconds that this process has waited for a processor since its start; 0.0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / NANOSECONDS
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(frozen=True, slots=True)
class SchedulingDelay:
    """The waiting times of processes at one moment, and how much they have grown since."""

    before: Mapping[int, float]

    @classmethod
    def from_now(cls, pids: Iterable[int]) -> Self:
        return cls({pid: run_queue_wait(pid) for pid in (*pids, os.getpid())})

    def seconds(self, pids: Iterable[int]) -> float:
        """The longest delay of these processes (including those started since), plus the delay of this process."""
        return max(map(self._since, pids), default=0.0) + self._since(os.getpid())

    def _since(self, pid: int) -> float:
        return max(0.0, run_queue_wait(pid) - self.before.get(pid, 0.0))
