"""What a caller notices of kills, freezes, drains and rolling restarts: ``python -m bench.kills`` (three minutes).

Pools of 3 and of 10 workers, each worker with its sidecar. A caller sends 200 keyed requests a second through the
client library, whatever the pool does, and checks each answer. One fault follows another once the pool is whole again:

- kill: SIGKILL to a worker and its sidecar; both are started again,
- freeze: SIGSTOP to both until the pool has evicted them, then SIGCONT,
- drain: ``rumormill drain --wait``, then ``undrain``,
- roll: a SIGTERM to each sidecar and then to its worker, and a new start, one member after another.

``--full`` does 100 kills, 50 freezes, 20 drains and 20 rolls for each pool, in about an hour.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import click
import trio

from rumormill.cli.demo.caller import Caller, Replay
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable, evicted, routable
from rumormill.cli.demo.processes import LocalMember, LocalPool, LocalPoolSettings
from rumormill.cli.demo.request_log import RequestLog, RequestOutcome, percentile

Fault = Literal["kill", "freeze", "drain", "roll"]
FULL: dict[Fault, int] = {"kill": 100, "freeze": 50, "drain": 20, "roll": 20}
SHORT: dict[Fault, int] = {"kill": 10, "freeze": 5, "drain": 3, "roll": 1}
TIMEOUT = 120.0
"""Seconds to wait for the pool. Only a hang takes so long."""
STEADY_SECONDS = 10.0
PAUSE_SECONDS = 0.5
DOWN_SECONDS = 0.5
"""Seconds that the member stays away after its eviction."""
RUMORMILL = (sys.executable, "-c", "from rumormill.cli.main import main; main()")


@dataclass(frozen=True)
class Campaign:
    """What to do to one pool."""

    size: int
    times: Mapping[Fault, int]
    replay: Replay = "always"
    rate: float = 200.0
    seed: int = 1


@dataclass(frozen=True)
class FaultSpan:
    """One fault, in monotonic seconds."""

    fault: Fault
    begun: float
    restarted: float
    """When the member was started or continued; the start of two processes takes processor time of its own."""
    ended: float


@dataclass
class CampaignFigures:
    """What came of one campaign."""

    campaign: Campaign
    spans: list[FaultSpan] = field(default_factory=list)
    outcomes: list[RequestOutcome] = field(default_factory=list)

    def steady(self) -> list[RequestOutcome]:
        """The requests that ran while all was well, from the caller's first on."""
        return [o for o in self.outcomes if not any(s.begun < o.ended and o.begun < s.ended for s in self.spans)]

    def during(self, fault: Fault) -> list[RequestOutcome]:
        """The requests that ended between such a fault and the member's restart."""
        return self._ended((s.begun, s.restarted) for s in self.spans if s.fault == fault)

    def returning(self, fault: Fault) -> list[RequestOutcome]:
        """The requests that ended while the member came back."""
        return self._ended((s.restarted, s.ended) for s in self.spans if s.fault == fault)

    def _ended(self, times: Iterable[tuple[float, float]]) -> list[RequestOutcome]:
        return [o for begin, end in times for o in self.outcomes if begin <= o.ended < end]


class CampaignRun:
    """One pool, its caller, and the faults."""

    def __init__(self, campaign: Campaign, pool: LocalPool) -> None:
        self._pool = pool
        self._watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)
        self._rng = random.Random(campaign.seed)
        self._log = RequestLog()
        self.found = CampaignFigures(campaign, outcomes=self._log.outcomes)

    async def run(self) -> CampaignFigures:
        campaign = self.found.campaign
        caller = Caller(
            self._pool.urls,
            service=self._pool.settings.service,
            record=self._log.add,
            rate=campaign.rate,
            replay=campaign.replay,
            rng=self._rng,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch.run)
            self._pool.start()
            await self._whole()
            await nursery.start(caller.run)
            await trio.sleep(STEADY_SECONDS)
            for fault, times in campaign.times.items():
                for number in range(1, times + 1):
                    await self._one(fault)
                    failed = sum(outcome.trouble is not None for outcome in self._log.outcomes)
                    said = f"{campaign.size} workers: {fault} {number} of {times}, {len(self._log.outcomes)} requests"
                    click.echo(f"{said}, {failed} failed", err=True)
            await trio.sleep(STEADY_SECONDS)
            await caller.finish()
            nursery.cancel_scope.cancel()
        return self.found

    async def _whole(self) -> None:
        await self._watch.until(self._pool.members, everyone_routable(self._pool.members), "one view", TIMEOUT)

    async def _one(self, fault: Fault) -> None:
        await trio.sleep(PAUSE_SECONDS + self._rng.uniform(0, 0.2))
        members = list(self._pool) if fault == "roll" else [self._rng.choice(list(self._pool))]
        for member in members:
            begun = time.monotonic()
            restarted = await self._fail(fault, member)
            await self._whole()
            self.found.spans.append(FaultSpan(fault, begun, restarted, time.monotonic()))

    async def _fail(self, fault: Fault, member: LocalMember) -> float:
        """One fault at one member. Returns when it was started again, once it is back."""
        others = [name for name in self._pool.members if name != member.name]
        instance = self._watch.instance(member.name, others)
        if fault == "drain":
            return await self._drain(member)
        if fault == "roll":
            member.sidecar.signal(signal.SIGTERM)
            await trio.to_thread.run_sync(member.sidecar.wait, TIMEOUT)
            member.worker.signal(signal.SIGTERM)
            await trio.to_thread.run_sync(member.worker.wait, TIMEOUT)
        else:
            member.kill() if fault == "kill" else member.freeze()
            await self._watch.until(others, evicted(instance), f"{member.name} evicted", TIMEOUT)
            await trio.sleep(DOWN_SECONDS)
        restarted = member.thaw() if fault == "freeze" else member.start()
        back = routable(member.name, but="" if fault == "freeze" else instance)
        await self._watch.until(self._pool.members, back, f"{member.name} back", TIMEOUT)
        return restarted

    async def _drain(self, member: LocalMember) -> float:
        await trio.run_process([*RUMORMILL, "drain", "--wait", "--http", member.url], capture_stdout=True)
        undrained = time.monotonic()
        await trio.run_process([*RUMORMILL, "undrain", "--http", member.url], capture_stdout=True)
        return undrained


def measure(campaign: Campaign) -> CampaignFigures:
    settings = LocalPoolSettings(size=campaign.size, cluster="bench", agent_flags=("--probation", "0s"))
    with LocalPool(settings) as pool:
        return trio.run(CampaignRun(campaign, pool).run)


def _latencies(outcomes: Iterable[RequestOutcome], *, intended: bool) -> list[float]:
    """In milliseconds, sorted; from the moment at which the request was meant to be sent, or at which it was."""
    return sorted((o.seconds + (o.late if intended else 0.0)) * 1000 for o in outcomes)


def _line(name: str, outcomes: list[RequestOutcome]) -> str:
    cells = []
    for intended in (True, False):
        ordered = _latencies(outcomes, intended=intended)
        cells.append(" / ".join(f"{percentile(ordered, share):.0f}" for share in (0.5, 0.99, 0.999, 1.0)))
    failed = sum(outcome.trouble is not None for outcome in outcomes)
    wrong = sum(outcome.wrong is not None for outcome in outcomes)
    return f"| {name} | {len(outcomes)} | {failed} | {wrong} | {cells[0]} | {cells[1]} |"


def report(found: CampaignFigures) -> str:
    """A Markdown table, what failed, and the verdict."""
    campaign = found.campaign
    steady, kinds = found.steady(), dict.fromkeys(span.fault for span in found.spans)
    lines = [
        f"\n{campaign.size} workers, {campaign.rate:g} requests/s, replay={campaign.replay}, seed {campaign.seed}\n",
        "| | requests | failed | wrong | ms since due: p50 / p99 / p99.9 / max | ms since sent |",
        "|---|---|---|---|---|---|",
        _line("all is well", steady),
    ]
    for fault in kinds:
        count = sum(span.fault == fault for span in found.spans)
        lines.append(_line(f"{count} × {fault}, until the restart", found.during(fault)))
        lines.append(_line("the same, until it is back", found.returning(fault)))
    lines.append(_line("all", found.outcomes))
    troubles = Counter(outcome.trouble or outcome.wrong or "" for outcome in found.outcomes)
    del troubles[""]
    lines += [f"{count} x {text}" for text, count in troubles.most_common(5)]
    return "\n".join([*lines, "", _verdict(found)])


def _verdict(found: CampaignFigures) -> str:
    kills = _latencies(found.during("kill"), intended=False)
    bound = 2 * percentile(_latencies(found.steady(), intended=False), 0.99) + 10
    failed = sum(o.trouble is not None or o.wrong is not None for o in found.outcomes)
    reached = percentile(kills, 0.999)
    text = f"{failed} failed or wrong, bound 0" if found.campaign.replay == "always" else f"{failed} failed or wrong"
    if kills:
        kept = "within" if reached <= bound else "BEYOND"
        text += f"; p99.9 during kills {reached:.0f} ms, {kept} twice the steady p99 + 10 ms ({bound:.0f} ms)"
    late = max(outcome.late for outcome in found.outcomes) * 1000
    return f"{text}; the caller itself was late by {late:.0f} ms at most"


@click.command()
@click.option("--full", is_flag=True, help="100 kills, 50 freezes, 20 drains and 20 rolls for each pool.")
@click.option("--workers", type=click.IntRange(2, 50), multiple=True, default=(3, 10), show_default=True)
@click.option("--fault", type=click.Choice(list(FULL)), help="Only this fault.")
@click.option("--times", type=click.IntRange(1), default=None, help="How often each fault happens.")
@click.option("--replay", type=click.Choice(["always", "idempotent", "never"]), default="always", show_default=True)
@click.option("--rate", type=click.FloatRange(1, 1000), default=200.0, show_default=True, help="Requests a second.")
@click.option("--seed", default=1, show_default=True, help="Chooses victims and moments.")
def bench(
    full: bool,
    workers: tuple[int, ...],
    fault: Fault | None,
    times: int | None,
    replay: Replay,
    rate: float,
    seed: int,
) -> None:
    """What a caller notices of kills, freezes, drains and rolling restarts."""
    usual = FULL if full else SHORT
    wanted = {kind: times or count for kind, count in usual.items() if fault in (None, kind)}
    for size in workers:
        click.echo(report(measure(Campaign(size, wanted, replay, rate, seed))))


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
