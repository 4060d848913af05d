"""The setup of a measurement: network hosts, a pool of each system on them, and the measurements."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.netns_testbed import Bed, NetnsHost
from bench.peers.pool import PeerPool, PeerPoolError
from bench.peers.rumormill import WORKER_PORT
from bench.peers.systems import ROOT, Conditions, System

OURS = "rumormill"
Log = Callable[[str], None]


@dataclass
class Measurements:
    """One system's figures, by name: samples in seconds, one per repetition, and single numbers."""

    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, by: float = 1) -> None:
        self.numbers[what] = self.numbers.get(what, 0) + by


class PeerTestbed:
    """A context manager: the hosts, with one pool of each system, each pool with one view."""

    def __init__(
        self,
        systems: Sequence[System],
        size: int,
        conditions: Conditions,
        rng: random.Random,
        log: Log,
        measurements: dict[str, Measurements],
        *,
        nth: tuple[int, int] = (0, 1),
    ) -> None:
        self.systems = systems
        self.size = size
        self.rng = rng
        self.log = log
        self.measurements = measurements
        self.nth = nth
        """The number of this round, from 0, and the number of rounds."""
        self.pools: list[PeerPool] = []
        self.refused: dict[NetnsHost, float] = {}
        """When each host's kernel last refused datagrams (monotonic time)."""
        self._conditions = conditions
        self._stack = ExitStack()

    def __enter__(self) -> PeerTestbed:
        with ExitStack() as stack:
            self.stalls = stack.enter_context(StallMonitor())
            ports = [system.port for system in self.systems]
            self.bed = stack.enter_context(
                Bed(self.size, ports=ports, delay=self._conditions.delay, jitter=self._conditions.jitter)
            )
            self._start_workers(stack)
            for system in self.systems:
                self._start_pool(stack.enter_context(PeerPool(system, self.bed, self._conditions, self.rng)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_pool(self, pool: PeerPool) -> None:
        """Start a pool. A peer that reaches no one view is left out and recorded; for rumormill it is an error."""
        begun = time.monotonic()
        try:
            pool.start_all(self.bed.hosts)
        except PeerPoolError as error:
            if pool.name == OURS:
                raise
            self.log(f"left out: {error}")
            self.measurements[pool.name].add("no one view at the start")
            pool.close()
        else:
            up = max(event.at for event in pool.observed if event.kind == "up")
            joined = max((event.at for event in pool.observed if event.kind == "joined"), default=up)
            self.measurements[pool.name].samples["last member up to one view"].append(max(0.0, joined - up))
            self.log(f"{self.size} x {pool.name}: one view after {time.monotonic() - begun:.1f} s")
            self.refused.update(dict.fromkeys(self.bed.hosts, up))  # early members sent to hosts that were not up yet
            self.pools.append(pool)

    def _start_workers(self, stack: ExitStack) -> None:
        argv = [sys.executable, "-m", "bench.peers.workers", str(WORKER_PORT)]
        argv += [host.namespace for host in self.bed.hosts]
        workers = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
        stack.callback(workers.communicate)
        stack.callback(workers.kill)
        assert workers.stdout is not None
        workers.stdout.readline()


class StallMonitor:
    """Measures the machine's longest stall with a real-time thread; a context manager.

    When that thread is late, every process on the machine is late.
    """

    STEP = 0.005

    def __init__(self) -> None:
        self._worst = 0.0
        self._over = threading.Event()

    def __enter__(self) -> StallMonitor:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def take(self) -> float:
        """The longest stall since the last call, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst

    def _watch(self) -> None:
        with suppress(PermissionError):  # without real-time priority it is late like all others
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(1))
        while not self._over.is_set():
            begun = time.monotonic()
            time.sleep(self.STEP)
            self._worst = max(self._worst, time.monotonic() - begun - self.STEP)


def pin(pids: Sequence[int], processor: int) -> None:
    """Pin these processes, with all their threads, to one processor."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {processor})
