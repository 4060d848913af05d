"""What a measurement stands on: a bed, a pool of each system on it, and the sheet its figures go on."""

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
from bench.peers.pool import PeerPool, PoolTrouble
from bench.peers.rumormill import WORKER_PORT
from bench.peers.systems import ROOT, Conditions, System

OURS = "rumormill"
Say = Callable[[str], None]


@dataclass
class Sheet:
    """One system's figures: samples (seconds, one for each time it was done) and single numbers, by what they are."""

    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, by: float = 1) -> None:
        self.numbers[what] = self.numbers.get(what, 0) + by


class Stage:
    """A context manager: the bed and, on it, one pool of each system, with one view each."""

    def __init__(
        self,
        systems: Sequence[System],
        size: int,
        conditions: Conditions,
        rng: random.Random,
        say: Say,
        sheets: dict[str, Sheet],
        *,
        nth: tuple[int, int] = (0, 1),
        delay: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        self.systems = systems
        self.size = size
        self.rng = rng
        self.say = say
        self.sheets = sheets
        self.nth = nth
        """Which round this is (from 0), of how many."""
        self.pools: list[PeerPool] = []
        self.refused: dict[NetnsHost, float] = {}
        """When each host's kernel last refused what came for a process (monotonic time)."""
        self._conditions = conditions
        self._delay, self._jitter = delay, jitter
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self.stillness = stack.enter_context(Stillness())
            ports = [system.port for system in self.systems]
            self.bed = stack.enter_context(Bed(self.size, ports=ports, delay=self._delay, jitter=self._jitter))
            self._start_workers(stack)
            for system in self.systems:
                self._start_pool(stack.enter_context(PeerPool(system, self.bed, self._conditions, self.rng)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_pool(self, pool: PeerPool) -> None:
        """A peer that does not even find together is left out, and that is on its sheet; for ours it is an error."""
        begun = time.monotonic()
        try:
            pool.start_all(self.bed.hosts)
        except PoolTrouble as trouble:
            if pool.name == OURS:
                raise
            self.say(f"left out: {trouble}")
            self.sheets[pool.name].add("no one view to begin with")
            pool.close()
        else:
            up = max(said.at for said in pool.sightings if said.event == "up")
            joined = max((said.at for said in pool.sightings if said.event == "joined"), default=up)
            self.sheets[pool.name].samples["last member up to one view"].append(max(0.0, joined - up))
            self.say(f"{self.size} x {pool.name}: one view after {time.monotonic() - begun:.1f} s")
            self.refused.update(dict.fromkeys(self.bed.hosts, up))  # whoever was early asked them before they were up
            self.pools.append(pool)

    def _start_workers(self, stack: ExitStack) -> None:
        argv = [sys.executable, "-m", "bench.peers.workers", str(WORKER_PORT)]
        argv += [host.namespace for host in self.bed.hosts]
        workers = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
        stack.callback(workers.communicate)
        stack.callback(workers.kill)
        assert workers.stdout is not None
        workers.stdout.readline()


class Stillness:
    """How long the machine stood still at worst, as far as a thread ahead of all others can tell: nobody on it is early
    when that one is late. A context manager."""

    STEP = 0.005

    def __init__(self) -> None:
        self._worst = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Stillness:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def take(self) -> float:
        """Seconds, since this was last asked."""
        worst, self._worst = self._worst, 0.0
        return worst

    def _watch(self) -> None:
        with suppress(PermissionError):  # where it may not be ahead of others, it is late with them
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO, os.sched_param(1))
        while not self._over.is_set():
            begun = time.monotonic()
            time.sleep(self.STEP)
            self._worst = max(self._worst, time.monotonic() - begun - self.STEP)


def pin(pids: Sequence[int], processor: int) -> None:
    """Let these processes, with all their threads, run on one processor only."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {processor})
