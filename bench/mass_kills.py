"""All but one of a small pool killed at once, under load: ``python -m bench.mass_kills`` (six minutes).

Two of three, or three of four, workers and sidecars get SIGKILL together, 20 times each. The hosts live, so their
kernels refuse. Meanwhile a caller sends keyed requests through the client library, and the survivor's ``/readyz`` and
``/v1/lookup`` are asked all the time. The bench reports failed requests, answers of ``/readyz`` that were not 200, and
the time until the dead were first in no answer of ``/v1/lookup``.

With ``--silent`` refusals are ignored (``--no-icmp-evidence``): the pool learns as little as if the hosts had vanished.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import click
import httpx2
import trio

from rumormill.cli.demo.caller import Caller
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable
from rumormill.cli.demo.processes import LocalMember, LocalPool, LocalPoolSettings
from rumormill.cli.demo.request_log import RequestLog, RequestSummary, percentile, summarize

TIMEOUT = 60.0
DOWN_SECONDS = 1.0
"""Seconds that the others stay away after the survivor has put them last."""
KEYS = 20
"""Keys that are looked up, one after another."""
IN_ORDER = 2 * KEYS
"""So many answers in a row with the survivor first, and the dead are first in none."""


@dataclass
class MassKills:
    """Times in seconds."""

    first_owner: list[float] = field(default_factory=list)
    """From each kill until the dead were first in no lookup."""
    not_ready: list[str] = field(default_factory=list)
    """Answers of the survivor's ``/readyz`` that were not 200."""
    asked_ready: int = 0
    whole: RequestSummary = field(default_factory=RequestSummary)


class Survivor:
    """Asks the sidecar that survives."""

    def __init__(self, member: LocalMember, http: httpx2.AsyncClient, found: MassKills) -> None:
        self._member = member
        self._http = http
        self._found = found

    async def watch_ready(self) -> None:
        """Ask whether it is ready, forever."""
        while True:
            response = await self._http.get(f"{self._member.url}/readyz")
            self._found.asked_ready += 1
            if response.status_code != 200:
                self._found.not_ready.append(response.text)
            await trio.sleep(0.02)

    async def named_first(self, killed: float) -> float:
        """Wait until it names itself first for all keys. Returns the time since the kill."""
        in_order, since = 0, killed
        with trio.fail_after(TIMEOUT):
            while in_order < IN_ORDER:
                query = {"service": "embed", "key": f"user-{in_order % KEYS}"}
                answer = (await self._http.get(f"{self._member.url}/v1/lookup", params=query)).json()
                if answer["owners"][0]["name"] == self._member.name:
                    in_order += 1
                    continue
                in_order, since = 0, time.monotonic()
        return since - killed


async def measure(size: int, times: int, rate: float, seed: int, *, silent: bool) -> MassKills:
    """Kill all but one so many times. Each time another member survives."""
    rng, log, found = random.Random(seed), RequestLog(), MassKills()
    flags = ("--probation", "0s", *(("--no-icmp-evidence",) if silent else ()))
    async with httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
        with LocalPool(LocalPoolSettings(size=size, cluster="bench", agent_flags=flags)) as pool:
            watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
            caller = Caller(pool.urls, service="embed", record=log.add, rate=rate, rng=rng)
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.run)
                pool.start()
                await _whole(pool, watch)
                await nursery.start(caller.run)
                for _ in range(times):
                    await _one(pool, watch, http, found, rng)
                await caller.finish()
                nursery.cancel_scope.cancel()
    found.whole = summarize(log.outcomes)
    return found


async def _one(
    pool: LocalPool, watch: PoolWatch, http: httpx2.AsyncClient, found: MassKills, rng: random.Random
) -> None:
    await trio.sleep(0.5 + rng.uniform(0, 0.2))
    last = rng.choice(list(pool.members))
    others = [member for member in pool if member.name != last]
    survivor = Survivor(pool[last], http, found)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(survivor.watch_ready)
        killed = min(member.kill() for member in others)
        found.first_owner.append(await survivor.named_first(killed))
        await trio.sleep(DOWN_SECONDS)
        for member in others:
            member.start()
        await _whole(pool, watch)
        nursery.cancel_scope.cancel()


async def _whole(pool: LocalPool, watch: PoolWatch) -> None:
    await watch.until(pool.members, everyone_routable(pool.members), "one view", TIMEOUT)


def report(size: int, found: MassKills, *, silent: bool) -> str:
    times = sorted(found.first_owner)
    marks = " / ".join(f"{percentile(times, share) * 1000:.0f}" for share in (0.0, 0.5, 0.9, 1.0))
    whole = found.whole
    lines = [
        f"{len(times)} x {size - 1} of {size} killed at once, {'refusals ignored' if silent else 'live kernels'}:",
        (
            f"  {whole.requests} requests, {whole.failed} failed, {whole.wrong} wrong; "
            f"slowest {whole.slowest * 1000:.0f} ms"
        ),
        f"  the survivor's /readyz: {found.asked_ready} asked, {len(found.not_ready)} not ready",
        f"  dead out of lookup's first place, min / median / p90 / max: {marks} ms",
    ]
    lines += [f"  {count} x {text}" for text, count in whole.troubles]
    return "\n".join([*lines, *found.not_ready[:3], ""])


@click.command()
@click.option("--size", type=click.IntRange(3, 8), multiple=True, default=(3, 4), show_default=True)
@click.option("--times", type=click.IntRange(1), default=20, show_default=True, help="How often.")
@click.option("--rate", type=click.FloatRange(1, 1000), default=50.0, show_default=True, help="Requests a second.")
@click.option("--silent", is_flag=True, help="Ignore refusals.")
@click.option("--seed", default=1, show_default=True, help="Chooses survivors and moments.")
def bench(size: tuple[int, ...], times: int, rate: float, silent: bool, seed: int) -> None:
    """All but one of a small pool killed at once."""
    for members in size:
        click.echo(report(members, trio.run(_measure, members, times, rate, seed, silent), silent=silent))


async def _measure(size: int, times: int, rate: float, seed: int, silent: bool) -> MassKills:
    return await measure(size, times, rate, seed, silent=silent)


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
