"""From SIGKILL to eviction at every survivor, with real processes: ``python -m bench.detection`` (three minutes).

This process watches each sidecar over HTTP (``/v1/watch``). Its clock times both the kill and the answers, so the bench
measures what callers learn. The sidecar is killed before its worker, so it cannot announce anything. The bench also
measures how long other members were suspected, how soon a restarted member is routable everywhere (including process
start), and how soon a crashed worker with a living sidecar is unroutable (``--worker-pid``).

``--silent`` kills as if the whole host had failed, like a crash in the lab: no kernel refuses datagrams. ``--silent
--json FILE`` writes the input of ``rumormill simulate report --real FILE``.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import trio

from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable, evicted, unroutable
from rumormill.cli.demo.processes import LocalPool, LocalPoolSettings
from rumormill.cli.demo.request_log import percentile

TIMEOUT = 30.0
PERIOD = 0.2
PAUSE_SECONDS = 1.0
"""Seconds between two faults. A random part of a period is added, so that faults fall anywhere in it."""


@dataclass
class DetectionFigures:
    """Seconds, one value per fault."""

    evicted: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    unroutable: list[float] = field(default_factory=list)
    suspicions: list[float] = field(default_factory=list)
    """How long any member without a fault was suspected, at any observer."""
    wrongly_evicted: int = 0
    stalls: list[float] = field(default_factory=list)
    """The worst lateness of this process's own timer, per fault."""


class Bench:
    """One pool and its measurements."""

    def __init__(self, pool: LocalPool, watch: PoolWatch, rng: random.Random) -> None:
        self.pool = pool
        self.watch = watch
        self.rng = rng
        self.found = DetectionFigures()
        self._stall = 0.0

    async def measure_stalls(self) -> None:
        """Measure how late this machine runs a timer. The pool cannot be faster than that."""
        while True:
            due = time.monotonic() + 0.01
            await trio.sleep(0.01)
            self._stall = max(self._stall, time.monotonic() - due)

    async def settle(self) -> None:
        await self.watch.until(self.pool.members, everyone_routable(self.pool.members), "one view", TIMEOUT)
        await trio.sleep(PAUSE_SECONDS + self.rng.uniform(0, PERIOD))
        self._stall = 0.0

    def victim(self) -> tuple[str, list[str]]:
        name = self.rng.choice(list(self.pool.members))
        return name, [other for other in self.pool.members if other != name]

    async def kill(self) -> None:
        await self.settle()
        name, others = self.victim()
        instance = self.watch.instance(name, others)
        begun = self.pool[name].kill()
        at = await self.watch.until(others, evicted(instance), f"{name} evicted", TIMEOUT)
        gone = [change for change in self.watch.changes if change.at >= begun and change.state == "gone"]
        self.found.evicted.append(at - begun)
        self.found.first.append(min(turn.at for turn in gone if turn.instance == instance) - begun)
        self.found.wrongly_evicted += sum(turn.instance != instance and turn.observer in others for turn in gone)
        self.found.suspicions += [suspicion.seconds for suspicion in self.watch.suspicions(begun, others, but=[name])]
        self.found.stalls.append(self._stall)
        await self._restart(name)

    async def kill_worker(self) -> None:
        await self.settle()
        name, others = self.victim()
        instance = self.watch.instance(name, others)
        begun = time.monotonic()
        self.pool[name].worker.signal(signal.SIGKILL)
        at = await self.watch.until(self.pool.members, unroutable(instance), f"{name} unroutable", TIMEOUT)
        self.found.unroutable.append(at - begun)
        self.pool[name].sidecar.signal(signal.SIGKILL)
        await self.watch.until(others, evicted(instance), f"{name} evicted", TIMEOUT)
        await self._restart(name)

    async def _restart(self, name: str) -> None:
        begun = self.pool[name].start()
        at = await self.watch.until(self.pool.members, everyone_routable(self.pool.members), f"{name} back", TIMEOUT)
        self.found.back.append(at - begun)


async def measure(size: int, kills: int, worker_kills: int, seed: int, *, silent: bool) -> DetectionFigures:
    """One pool of real processes. ``silent`` ignores refusals by a dead member's kernel."""
    flags = ("--probation", "0s", *(("--no-icmp-evidence",) if silent else ()))
    with LocalPool(LocalPoolSettings(size=size, cluster="bench", agent_flags=flags)) as pool:
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        bench = Bench(pool, watch, random.Random(seed))
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            nursery.start_soon(bench.measure_stalls)
            pool.start()
            for _ in range(kills):
                await bench.kill()
            for _ in range(worker_kills):
                await bench.kill_worker()
            nursery.cancel_scope.cancel()
    return bench.found


def line(title: str, seconds: Sequence[float], target: str = "") -> str:
    """min / median / p90 / max, in milliseconds."""
    if not seconds:
        return f"{title:44} none"
    ordered = sorted(seconds)
    marks = [ordered[0], percentile(ordered, 0.5), percentile(ordered, 0.9), ordered[-1]]
    return f"{title:44}" + "".join(f"{mark * 1000:9.0f}" for mark in marks) + f"   {target}"


def report(size: int, found: DetectionFigures) -> str:
    return "\n".join(
        [
            f"N={size}, {len(found.evicted)} kills, ms{'min':>28}{'median':>9}{'p90':>9}{'max':>9}   bound",
            line("SIGKILL to the first eviction", found.first),
            line("SIGKILL to evicted at every survivor", found.evicted, "median 650, max 850"),
            line("others suspected", found.suspicions, "max 200"),
            line("restart to routable everywhere", found.back, "max 1000"),
            line("worker crashed to unroutable everywhere", found.unroutable, "max 50"),
            line("this machine's own timer late", found.stalls),
            f"others evicted: {found.wrongly_evicted} (bound: 0)",
            "",
        ]
    )


@click.command()
@click.option("--size", "sizes", type=click.IntRange(2, 64), multiple=True, default=(3, 16), show_default=True)
@click.option("--kills", default=30, show_default=True)
@click.option("--worker-kills", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Chooses victims and moments.")
@click.option("--silent", is_flag=True, help="Kill as if the whole host had failed: its kernel sends no refusals.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="For `simulate report --real`.")
def bench(sizes: tuple[int, ...], kills: int, worker_kills: int, seed: int, *, silent: bool, file: Path | None) -> None:
    """How soon every survivor knows of a crash."""
    measured: dict[str, list[float]] = {}
    for size in sizes:
        found = trio.run(partial(measure, size, kills, worker_kills, seed, silent=silent))
        measured[str(size)] = [round(seconds, 4) for seconds in found.evicted]
        click.echo(report(size, found))
        if file is not None:
            file.write_text(json.dumps(measured) + "\n")


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
