"""All hosts but one of a small pool vanish at once, under load: ``python -m bench vanished_hosts`` (six minutes, root).

Two of three, or three of four, hosts in network namespaces are cut off in both directions, and their processes are
killed: as if they had lost power. Nothing refuses, so the survivor cannot tell this from a cut of its own network. A
caller on its host sends keyed requests, and its sidecar is asked all the time. The bench reports failed requests,
answers of ``/readyz`` that were not 200, and the time until the vanished were first in no answer of ``/v1/lookup``.
Then the hosts come back with new members, 20 times. bench/mass_kills.py does the same with live kernels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import click

from bench.netns_testbed import Bed, NetnsHost, unavailable_reason
from bench.peers.callers import CallerOn, end_process, start_worker
from bench.peers.nodes.asker import KEYS
from bench.peers.pool import PeerPool
from bench.peers.rumormill import Rumormill
from bench.peers.systems import Conditions
from rumormill.cli.demo.request_log import percentile

URL = "http://127.0.0.1:7380"
GONE_SECONDS = 3.0
"""How long the hosts stay away. The callers' connections to them break in this time."""
QUIET_SECONDS = 1.0
TIMEOUT = 60.0
SETTLE_SECONDS = 120.0
"""Twice the time for which an isolated member holds on to the vanished."""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


@dataclass
class VanishedHosts:
    """Times in seconds."""

    first_owner: list[float] = field(default_factory=list)
    """From each cut until the vanished were first in no lookup."""
    pools: list[tuple[int, int]] = field(default_factory=list)
    """What ``/v1/pool`` said meanwhile: suspects, and failures to spare."""
    asked_ready: int = 0
    not_ready: int = 0
    slowest: float = 0.0
    """Of all requests."""
    requests: int = 0
    troubles: list[str] = field(default_factory=list)
    """Of requests that failed or were answered wrong."""


class Asked(NamedTuple):
    """One answer of the survivor."""

    at: float
    ready: int
    first: str


class AskerOn:
    """A process on a host that asks its sidecar without end. The answers are read when it ends."""

    def __init__(self, bed: Bed, host: NetnsHost, folder: Path) -> None:
        self._file = (folder / f"asker-{host.number}").open("w+b")
        argv = [sys.executable, "-m", "bench.peers.nodes.asker", URL]
        self._process = subprocess.Popen(bed.command(host, argv), stdin=subprocess.PIPE, stdout=self._file)

    def finish(self) -> list[Asked]:
        self._process.communicate(b".")
        self._file.seek(0)
        return [Asked(*json.loads(line)) for line in self._file]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._file.close()


class VanishingPool:
    """A pool on hosts that vanish, except the first. Leaving the block ends everything."""

    def __init__(self, size: int, seed: int) -> None:
        system = Rumormill()
        system.prepare()
        self._stack = ExitStack()
        self.bed = self._stack.enter_context(Bed(size))
        self.pool = self._stack.enter_context(PeerPool(system, self.bed, Conditions(), Random(seed)))
        self._workers: dict[NetnsHost, subprocess.Popen[bytes]] = {}
        self._stack.callback(self._end_workers, self.bed.hosts)
        self.survivor, *self.others = self.bed.hosts

    def __enter__(self) -> VanishingPool:
        self.pool.start_all(self.bed.hosts)
        self._start_workers()
        self._until_whole()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def vanish(self) -> float:
        """Cut off all hosts but the first, and end what runs there. Returns the time just before."""
        lost = [member for member in self.pool.members if member.host is not self.survivor]
        begun = time.monotonic()
        self.bed.split([self.survivor], *([host] for host in self.others))
        for member in lost:
            self.pool.kill(member)
        self._end_workers(self.others)
        return begun

    def come_back(self) -> None:
        """New members on the same hosts. Returns when all hold exactly those that run."""
        self.bed.mend()
        for host in self.others:
            self.pool.start(host)
        # First the pool settles: callers still know these addresses under the vanished names.
        self.pool.settle(SETTLE_SECONDS)
        self._start_workers()
        self._until_whole()

    def ask(self, path: str) -> Any:
        """The survivor's answer."""
        argv = self.bed.command(self.survivor, [sys.executable, "-c", GET, f"{URL}{path}"])
        return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)

    def until_survivor_owns_all(self) -> None:
        """Wait until no lookup names a vanished worker first."""
        survivor = self.pool.members[0].name
        give_up = time.monotonic() + SETTLE_SECONDS
        for number in range(KEYS):
            while self.ask(f"/v1/lookup?service=embed&key=user-{number}")["owners"][0]["name"] != survivor:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"user-{number} still goes to a vanished worker first")

    def _until_whole(self) -> None:
        """Wait until every worker can own keys."""
        give_up = time.monotonic() + TIMEOUT
        while len(self.ask(f"/v1/lookup?service=embed&key=k&n={len(self.bed)}")["owners"]) < len(self.bed):
            if time.monotonic() > give_up:
                raise TimeoutError(f"not every worker is routable: {self.ask('/v1/workers?service=embed')}")
            time.sleep(0.1)

    def _start_workers(self) -> None:
        """A worker for each member that has none, under the member's name."""
        for member in self.pool.members:
            if member.host not in self._workers:
                self._workers[member.host] = start_worker(self.bed, member.host, member.name, "0.0.0.0")

    def _end_workers(self, hosts: list[NetnsHost]) -> None:
        for host in hosts:
            if host in self._workers:
                end_process(self._workers.pop(host))


def measure(size: int, times: int, seed: int) -> VanishedHosts:
    """Let all hosts but the first vanish and come back, so many times."""
    found = VanishedHosts()
    with VanishingPool(size, seed) as vanishing, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        caller = CallerOn(vanishing.bed, vanishing.survivor, folder)
        stack.callback(caller.close)
        asker = AskerOn(vanishing.bed, vanishing.survivor, folder)
        stack.callback(asker.close)
        rounds = [_one(vanishing, found) for _ in range(times)]
        asked, outcomes = asker.finish(), caller.finish()
        survivor = vanishing.pool.members[0].name
    found.first_owner = [_last_wrong(asked, survivor, *each) for each in rounds]
    found.asked_ready = len(asked)
    found.not_ready = sum(answer.ready != 200 for answer in asked)
    found.requests = len(outcomes)
    found.slowest = max(outcome["ended"] - outcome["begun"] for outcome in outcomes)
    found.troubles = [trouble for outcome in outcomes if (trouble := outcome["trouble"] or outcome["wrong"])]
    return found


def _one(vanishing: VanishingPool, found: VanishedHosts) -> tuple[float, float]:
    """When the hosts vanished, and when they came back."""
    time.sleep(QUIET_SECONDS)
    begun = vanishing.vanish()
    time.sleep(GONE_SECONDS)
    vanishing.until_survivor_owns_all()
    said = vanishing.ask("/v1/pool?service=embed")
    found.pools.append((said["suspect"], said["failures_to_spare"]))
    ended = time.monotonic()
    vanishing.come_back()
    return begun, ended


def _last_wrong(asked: list[Asked], survivor: str, begun: float, ended: float) -> float:
    """Seconds from the cut until the last answer that named another member than the survivor first."""
    meanwhile = [answer for answer in asked if begun < answer.at < ended]
    assert meanwhile, "the survivor did not answer at all"
    return max((answer.at - begun for answer in meanwhile if answer.first != survivor), default=0.0)


def report(size: int, found: VanishedHosts) -> str:
    times = sorted(found.first_owner)
    marks = " / ".join(f"{percentile(times, share) * 1000:.0f}" for share in (0.0, 0.5, 0.9, 1.0))
    lines = [
        f"{len(times)} x {size - 1} of {size} hosts vanished at once:",
        f"  {found.requests} requests, {len(found.troubles)} failed; slowest {found.slowest * 1000:.0f} ms",
        f"  the survivor's /readyz: {found.asked_ready} asked, {found.not_ready} not ready",
        f"  vanished out of lookup's first place, min / median / p90 / max: {marks} ms",
        *(f"  {trouble}" for trouble in found.troubles[:3]),
    ]
    return "\n".join([*lines, ""])


@click.command()
@click.option("--size", type=click.IntRange(3, 8), multiple=True, default=(3, 4), show_default=True)
@click.option("--times", type=click.IntRange(1), default=20, show_default=True, help="How often.")
@click.option("--seed", default=1, show_default=True, help="Chooses whom a new member joins.")
def bench(size: tuple[int, ...], times: int, seed: int) -> None:
    """All hosts but one of a small pool vanish at once."""
    if reason := unavailable_reason():
        raise click.ClickException(reason)
    for hosts in size:
        click.echo(report(hosts, measure(hosts, times, seed)))


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
