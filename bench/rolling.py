"""Sidecars restarted one by one, and upgraded a wire version and back, under load: ``python -m bench.rolling`` (six
minutes).

Sixteen workers serve all the time. Their sidecars get SIGTERM a second apart, and are started again as soon as they
have ended: three rounds with this code, and then rounds that replace the former version by this one and this one by the
former. The former version is not imitated: its own code is taken from the history of this checkout. A caller sends
keyed requests through the client library. Nobody ever fails, so each eviction and each probation in a log is wrong.
"""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx2
import trio

from rumormill.cli.demo.caller import Caller
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable
from rumormill.cli.demo.processes import LocalMember, LocalPool, LocalPoolSettings
from rumormill.cli.demo.request_log import RequestLog, RequestSummary, summarize

FORMER = "b27609bf9b39"
"""The last commit of the wire version before the present one."""
ROOMS = ("cli", "client", "discovery", "gossip", "membership", "recording", "ring", "sidecar", "worker")
CHECKOUT = Path(__file__).parents[1]
APART = 1.0
"""Seconds between two restarts."""
TIMEOUT = 60.0
WRONG = ("evicted", "probation", "isolated")
"""Events that nobody may conclude."""


@dataclass
class Rolling:
    """What was seen."""

    wrong: Counter[str] = field(default_factory=Counter)
    """Events in the sidecars' logs, by kind."""
    versions: list[list[int]] = field(default_factory=list)
    """The wire versions in the pool at the start and after each round."""
    restarts: int = 0
    whole: RequestSummary = field(default_factory=RequestSummary)


def former_missing() -> str | None:
    """Why the former version cannot be had here; None in a checkout with its history."""
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "--is-shallow-repository"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no git"
    return None if done.stdout.strip() == "false" else f"the history of this checkout lacks {FORMER}: fetch it"


@contextmanager
def former_version() -> Iterator[Mapping[str, str]]:
    """The variable that makes Python import the former version."""
    command = ["git", "-C", str(CHECKOUT), "archive", FORMER, *ROOMS]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(Path(folder) / "rumormill", filter="data")
        yield {"PYTHONPATH": folder}


async def measure(size: int, rounds: Sequence[bool], rate: float, seed: int) -> Rolling:
    """Restart all sidecars once for each round, into the present version or (False) the former one. The pool starts as
    the first round leaves it."""
    found, log = Rolling(), RequestLog()
    with former_version() as former, LocalPool(LocalPoolSettings(size=size, cluster="bench")) as pool:
        versions = {True: {}, False: former}
        _use(pool, versions[rounds[0]])
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        caller = Caller(pool.urls, service="embed", record=log.add, rate=rate, rng=random.Random(seed))
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            pool.start()
            await _whole(pool, watch, found)
            await nursery.start(caller.run)
            for present in rounds:
                await _round(pool, versions[present], found)
                await _whole(pool, watch, found)
            await caller.finish()
            nursery.cancel_scope.cancel()
        found.wrong = sum((_wrong_events(member) for member in pool), Counter())
    found.whole = summarize(log.outcomes)
    return found


def _use(pool: LocalPool, version: Mapping[str, str]) -> None:
    for member in pool:
        member.sidecar.env = {**pool.env, **version}


async def _round(pool: LocalPool, version: Mapping[str, str], found: Rolling) -> None:
    _use(pool, version)
    async with trio.open_nursery() as nursery:
        for member in pool:
            nursery.start_soon(_restart, member, found)
            await trio.sleep(APART)


async def _restart(member: LocalMember, found: Rolling) -> None:
    member.sidecar.signal(signal.SIGTERM)
    with trio.fail_after(TIMEOUT):
        while member.sidecar.exit_code is None:
            await trio.sleep(0.02)
    member.start_sidecar()
    found.restarts += 1


async def _whole(pool: LocalPool, watch: PoolWatch, found: Rolling) -> None:
    """Wait until all agree on all, and note which versions they speak."""
    await watch.until(pool.members, everyone_routable(pool.members), "one view", TIMEOUT)
    async with httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
        url = next(iter(pool)).url
        members = (await http.get(f"{url}/v1/members")).json()["members"]
    found.versions.append(sorted({member.get("wire", 1) for member in members if member["liveness"] == "alive"}))


def _wrong_events(member: LocalMember) -> Counter[str]:
    lines = [line for line in member.sidecar.log.read_text().splitlines() if line.startswith("{")]
    return Counter(kind for line in lines if (kind := json.loads(line)["event"]) in WRONG)


def report(title: str, found: Rolling) -> str:
    whole = found.whole
    lines = [
        f"{title}: {found.restarts} restarts, wire versions {found.versions}",
        f"  evictions, probations, isolations (all wrong): {dict(found.wrong) or 'none'}",
        f"  {whole.requests} requests, {whole.failed} failed, {whole.wrong} wrong",
    ]
    return "\n".join([*lines, *(f"  {count} x {text}" for text, count in whole.troubles), ""])


@click.command()
@click.option("--size", type=click.IntRange(2), default=16, show_default=True)
@click.option("--rate", type=click.FloatRange(1, 1000), default=50.0, show_default=True, help="Requests a second.")
@click.option("--seed", default=1, show_default=True, help="Chooses the requests.")
def bench(size: int, rate: float, seed: int) -> None:
    """Rolling restarts, and an upgrade and back."""
    for title, rounds in (("three rounds", (True, True, True)), ("up and back down", (False, True, False))):
        click.echo(report(title, trio.run(measure, size, rounds, rate, seed)))


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
