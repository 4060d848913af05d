"""One of three workers is alive, passes its check, and is of no use: ``python -m bench.grey_workers`` (ten minutes).

A caller sends 100 POSTs a second that may be replayed, with keys or without, whatever becomes of them. After 3 s one
worker goes wrong for 10 s in each way of fault_worker.py; its health path answers 200 all along. For each way, the
bench reports failed requests, the worker's share of the POSTs before and from 1 s after the fault, and how long after
its first good answer it has its share back. A storm of 400s, the callers' own mistakes, must change no share.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import click
import trio

from bench.fault_pool import fault_settings, received, tell, through_pool, until_all_pass
from bench.open_loop import LoadFigures, OpenLoop, Sent, figures
from rumormill.cli.demo.processes import LocalMember, LocalPool

WAYS = {
    "error": "500 in 2 ms",
    "unavailable": "503 with Retry-After",
    "hang": "takes requests, never answers",
    "half": "headers, then silence",
    "reset": "reset in the body",
    "slow10": "10 × slower",
    "alternate": "every second answer 500",
    "refuse": "400 to everything",
}
THINK = 0.02
RATE = 100.0
BEFORE, LASTS, SETTLES = 3.0, 10.0, 1.0
LIMIT = 90.0
"""Seconds to wait for the share after the worker is well again: an open breaker asks seldom."""
BACK = 0.7
"""The part of its former share that counts as back, over 2 s."""
SPAN = 2.0


@dataclass(frozen=True)
class GreyFigures:
    """What came of one grey worker."""

    way: str
    keyed: bool
    load: LoadFigures
    before: float
    """Its share of the requests while it was well."""
    after: float
    """The POSTs that came to it from 1 s after the fault on, to all requests of that time."""
    asked: float | None
    """Seconds from its healing to its first good answer: the breaker closes."""
    back: float | None
    """Seconds from that answer until it had its share back; None if never."""


async def measure(way: str, keyed: bool, lasts: float) -> GreyFigures:
    """One grey worker, with processes of its own."""
    with LocalPool(fault_settings(3, THINK)) as pool:
        pool.start()
        await until_all_pass(pool, pool.settings.service)
        victims = list(pool) if way == "refuse" else [pool["w1"]]
        async with through_pool(pool) as (_, http):
            load = OpenLoop(http, RATE, keyed)
            async with trio.open_nursery() as nursery:
                begun = time.monotonic()
                nursery.start_soon(load.run, BEFORE + lasts + LIMIT)
                await trio.sleep(BEFORE)
                fault = time.monotonic()
                await _tell_all(victims, way)
                await trio.sleep(lasts)
                await _tell_all(victims, "none")
                healed = time.monotonic()
                share = _share(load.requests, begun + 1, fault)
                asked, back = await _until_back(load, healed, share)
                came = await received(pool["w1"])
                nursery.cancel_scope.cancel()
        sent = round(RATE * (healed - fault - SETTLES))
        after = sum(fault + SETTLES <= at < healed for at in came) / sent
        ended = [one for one in load.requests if way != "refuse" or one.trouble != "status 400"]
        return GreyFigures(way, keyed, figures(ended), share, after, asked, back)


async def _tell_all(victims: list[LocalMember], way: str) -> None:
    """At once: whoever is told first to answer fast would look like the fastest."""
    async with trio.open_nursery() as nursery:
        for victim in victims:
            nursery.start_soon(tell, victim, way)


async def _until_back(load: OpenLoop, healed: float, share: float) -> tuple[float | None, float | None]:
    with trio.move_on_after(LIMIT - SPAN):
        while True:
            await trio.sleep(0.1)
            good = [one.ended for one in load.requests if one.worker == "w1" and one.begun > healed]
            now = time.monotonic()
            if good and now - good[0] >= SPAN and _share(load.requests, now - SPAN, now) >= BACK * share:
                return good[0] - healed, now - SPAN - good[0]
    return (good[0] - healed if good else None), None


def _share(requests: list[Sent], begin: float, end: float) -> float:
    """The part of the answers between these times that the first worker gave."""
    answers = [one for one in requests if one.worker and begin <= one.ended < end]
    return sum(one.worker == "w1" for one in answers) / len(answers) if answers else 0.0


def row(found: GreyFigures) -> str:
    asked = "never" if found.asked is None else f"{found.asked:.1f}"
    back = "never" if found.back is None else f"{max(0.0, found.back):.1f}"
    name = f"{WAYS[found.way]}, {'keyed' if found.keyed else 'no key'}"
    times = f"{found.load.slowest:.2f} / {found.load.p99:.2f}"
    shares = f"{found.before:.0%} / {found.after:.2%}"
    return f"| {name} | {found.load.requests} | {found.load.failed} | {times} | {shares} | {asked} / {back} |"


HEAD = """
| the worker | requests | failed | slowest / p99 in s | its share before / 1 s after | s until asked well / share back |
|---|---|---|---|---|---|"""


@click.command()
@click.option("--way", type=click.Choice(list(WAYS)), multiple=True, default=tuple(WAYS), help="Only these.")
@click.option("--keys", type=click.Choice(["with", "without", "both"]), default="both", show_default=True)
@click.option("--lasts", default=LASTS, show_default=True, help="Seconds that the worker is wrong.")
def bench(way: tuple[str, ...], keys: str, lasts: float) -> None:
    """One of three workers is alive, passes its check, and is of no use."""
    click.echo(HEAD)
    for one in way:
        for keyed in {"with": [True], "without": [False], "both": [True, False]}[keys]:
            found = trio.run(measure, one, keyed, lasts)
            click.echo(row(found))
            for text, count in found.load.troubles:
                click.echo(f"    {count} x {text[:150]}", err=True)


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    sys.exit(bench())
