"""What a caller notices of crashes, at 100 keyed requests per second: ``python -m bench.kills`` (six minutes).

The pool has three workers with their sidecars. One pair after another is killed or frozen, and returns. Meanwhile a
caller sends keyed requests through the client library and checks each answer. For each fault, the bench reports failed
requests, and the slowest request that ended between the fault and the member's return.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import click
import trio

from rumormill.cli.demo.caller import Caller, Replay
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable, evicted, routable
from rumormill.cli.demo.processes import LocalPool, LocalPoolSettings
from rumormill.cli.demo.request_log import RequestLog, RequestSummary, percentile, summarize

Fault = Literal["kill", "freeze"]
TIMEOUT = 30.0
PAUSE_SECONDS = 0.5
DOWN_SECONDS = 0.5
"""Seconds that the member stays away after its eviction."""


@dataclass
class KillFigures:
    """Figures per fault, and of the whole run."""

    faults: list[RequestSummary] = field(default_factory=list)
    whole: RequestSummary = field(default_factory=RequestSummary)
    errors: Counter[str] = field(default_factory=Counter)


async def measure(fault: Fault, replay: Replay, times: int, rate: float, seed: int) -> KillFigures:
    """``times`` faults, one after another, under one stream of requests."""
    rng = random.Random(seed)
    log, found = RequestLog(), KillFigures()
    with LocalPool(LocalPoolSettings(cluster="bench", agent_flags=("--probation", "0s"))) as pool:
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        caller = Caller(pool.urls, service="embed", record=log.add, rate=rate, replay=replay, rng=rng)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            pool.start()
            await watch.until(pool.members, everyone_routable(pool.members), "one view", TIMEOUT)
            await nursery.start(caller.run)
            for _ in range(times):
                found.faults.append(await _one(fault, pool, watch, log, rng))
            await caller.finish()
            nursery.cancel_scope.cancel()
    found.whole = summarize(log.outcomes)
    found.errors.update(outcome.trouble or outcome.wrong or "" for outcome in log.outcomes)
    del found.errors[""]
    return found


async def _one(fault: Fault, pool: LocalPool, watch: PoolWatch, log: RequestLog, rng: random.Random) -> RequestSummary:
    await trio.sleep(PAUSE_SECONDS + rng.uniform(0, 0.2))
    victim = pool[rng.choice(list(pool.members))]
    others = [name for name in pool.members if name != victim.name]
    instance = watch.instance(victim.name, others)
    begun = victim.kill() if fault == "kill" else victim.freeze()
    await watch.until(others, evicted(instance), f"{victim.name} evicted", TIMEOUT)
    await trio.sleep(DOWN_SECONDS)
    if fault == "kill":
        victim.start()
        await watch.until(pool.members, routable(victim.name, but=instance), f"{victim.name} back", TIMEOUT)
    else:
        victim.thaw()
        await watch.until(pool.members, routable(victim.name), f"{victim.name} back", TIMEOUT)
    return summarize(log.ended_since(begun))


def report(fault: Fault, replay: Replay, found: KillFigures, bound: str) -> str:
    slowest = sorted(each.slowest for each in found.faults)
    late = max((each.late for each in found.faults), default=0.0)
    marks = " / ".join(f"{percentile(slowest, share) * 1000:.0f}" for share in (0.0, 0.5, 0.9, 0.99, 1.0))
    with_failures = sum(each.failed > 0 for each in found.faults)
    whole = found.whole
    lines = [
        (
            f"{len(slowest)} x {fault}, replay={replay}: {whole.requests} requests, {whole.failed} failed "
            f"(in {with_failures} of the faults), {whole.wrong} wrong; bound: {bound}"
        ),
        f"  slowest request of each fault, min / median / p90 / p99 / max: {marks} ms",
        (
            f"  all requests: p50 {whole.p50 * 1000:.1f} ms, p99 {whole.p99 * 1000:.1f} ms; "
            f"the caller itself was late by {late * 1000:.0f} ms at most"
        ),
    ]
    kinds = Counter(text.partition(":")[0] for text in found.errors.elements())
    lines += [f"  {count} x {kind}" for kind, count in kinds.most_common()]
    lines += [f"    for example: {text}" for text, _ in found.errors.most_common(3)]
    return "\n".join([*lines, ""])


RUNS: tuple[tuple[Fault, Replay, int, str], ...] = (
    ("kill", "always", 100, "0 failed, slowest 100 ms"),
    ("freeze", "always", 30, "0 failed, slowest 400 ms"),
    ("kill", "never", 30, "only requests already sent fail, with an error that says so"),
)


BOUNDS = {(fault, replay): bound for fault, replay, _, bound in RUNS}


@click.command()
@click.option("--fault", type=click.Choice(["kill", "freeze"]), help="Only this fault; all three runs without it.")
@click.option("--replay", type=click.Choice(["always", "idempotent", "never"]), default="always", show_default=True)
@click.option("--times", type=click.IntRange(1), default=None, help="How often.")
@click.option("--rate", type=click.FloatRange(1, 1000), default=100.0, show_default=True, help="Requests a second.")
@click.option("--seed", default=1, show_default=True, help="Chooses victims and moments.")
def bench(fault: Fault | None, replay: Replay, times: int | None, rate: float, seed: int) -> None:
    """What a caller notices of crashes."""
    runs = RUNS if fault is None else [(fault, replay, times or 30, BOUNDS.get((fault, replay), "nothing"))]
    for kind, rule, usual, bound in runs:
        found = trio.run(measure, kind, rule, times or usual, rate, seed)
        click.echo(report(kind, rule, found, bound))


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
