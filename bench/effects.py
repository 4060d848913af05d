"""Charges and conversations while workers and Redis are killed: ``python -m bench.effects`` (about ten minutes).

Four uvicorn workers share a Redis. Callers send 10 000 charges, each until it is answered, a fifth of them twice at
once. Meanwhile workers are killed and started again. For each way to guard an effect, the bench reports how many
charges acted twice or never. Needs `redis-server` and `pip install -e '.[programs]'`.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.effects_load import GIVE_UP_AFTER, Callers, charge_all, converse_all, faults, worker_processes
from bench.redis_server import DURABLE, RedisServer

WORKERS = 4
TURNS = 15
KEPT_TURNS = 10
LEASE = 1.0
"""Seconds: the default of the bench's workers."""


@dataclass(frozen=True)
class Scenario:
    """How the effect is guarded, and what fails."""

    title: str
    worker: tuple[str, ...]
    redis: dict[str, str] = field(default_factory=lambda: dict(DURABLE))
    freeze: float = 0.0
    """Seconds for which every second victim is frozen and not killed; longer than a lease."""
    kill_redis_for: float | None = None
    """Seconds that Redis stays away, in the middle of the run."""
    patience: float = GIVE_UP_AFTER
    """Seconds until callers give up: less than the window."""


SCENARIOS = (
    Scenario("no middleware", ("--unguarded",)),
    Scenario("middleware, plain effect", ("--effect", "plain")),
    Scenario("middleware, a takeover looks first", ("--effect", "looks")),
    Scenario("middleware, at most once", ("--effect", "plain", "--at-most-once")),
    Scenario("middleware, effect unique by key; freezes too", ("--effect", "unique"), freeze=2.5),
    Scenario("a takeover looks first; Redis killed for 3 s", ("--effect", "looks"), kill_redis_for=3.0),
    Scenario(
        "a takeover looks first; Redis killed and forgets",
        ("--effect", "looks", "--window", "15"),
        redis={"appendonly": "no"},
        kill_redis_for=0.0,
        patience=12.0,
    ),
)


@dataclass
class EffectFigures:
    """What came of the charges."""

    charges: int
    acted: Counter[int] = field(default_factory=Counter)
    """How many charges acted how often."""
    faults: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    final: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def twice(self) -> int:
        return sum(count for times, count in self.acted.items() if times > 1)

    @property
    def never(self) -> int:
        return self.charges - sum(self.acted.values())


def measure(scenario: Scenario, charges: int, seed: int) -> EffectFigures:
    """One scenario, with processes of its own."""
    rng = random.Random(seed)
    found = EffectFigures(charges)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="effects-")))
        ledger = folder / "charges"
        ledger.mkdir()
        server = RedisServer(folder, **scenario.redis)
        stack.callback(server.kill)
        server.start()
        _wait_for_trust(scenario)
        options = ["--redis", server.url, "--folder", str(ledger), *scenario.worker]
        workers = stack.enter_context(worker_processes(WORKERS, options))
        callers = Callers([worker.port for worker in workers], random.Random(seed), scenario.patience)
        stack.callback(callers.close)
        began = time.monotonic()
        with faults(workers, rng, freeze=scenario.freeze) as found.faults:
            if scenario.kill_redis_for is not None:
                stack.enter_context(_redis_fault(server, ledger, charges // 2, scenario.kill_redis_for, found.faults))
            charge_all(callers, charges)
        found.seconds = time.monotonic() - began
        found.acted = Counter(charge.stat().st_size for charge in ledger.iterdir())
        found.refusals, found.final = callers.refusals, callers.final
    return found


def _wait_for_trust(scenario: Scenario) -> None:
    """A Redis that may forget is used once it has run for a window."""
    if scenario.redis.get("appendonly") != "yes":
        time.sleep(float(scenario.worker[scenario.worker.index("--window") + 1]) + LEASE)


def _redis_fault(server: RedisServer, ledger: Path, after: int, away: float, done: Counter[str]) -> ExitStack:
    """Kill Redis once as many charges have acted, and start it again. Leaving the block waits for that."""

    def run() -> None:
        while sum(1 for _ in ledger.iterdir()) < after:
            time.sleep(0.1)
        server.kill()
        done["kills of Redis"] += 1
        time.sleep(away)
        server.start()

    thread = threading.Thread(target=run)
    thread.start()
    stack = ExitStack()
    stack.callback(thread.join)
    return stack


def measure_conversations(conversations: int, seed: int) -> tuple[int, Counter[str]]:
    """How many conversations had the last ten turns at their last turn, over kills. And the kills."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="effects-")))
        server = RedisServer(folder, **DURABLE)
        stack.callback(server.kill)
        server.start()
        workers = stack.enter_context(worker_processes(WORKERS, ["--redis", server.url, "--folder", str(folder)]))
        callers = Callers([worker.port for worker in workers], random.Random(seed))
        stack.callback(callers.close)
        with faults(workers, rng) as done:
            found = converse_all(callers, conversations, TURNS)
        expected = [
            [f"turn {turn} of {number}" for turn in range(TURNS - 1 - KEPT_TURNS, TURNS - 1)]
            for number in range(conversations)
        ]
        return sum(got == wanted for got, wanted in zip(found, expected, strict=True)), done


def report(scenario: Scenario, found: EffectFigures) -> str:
    def listed(counter: Counter[str]) -> str:
        return ", ".join(f"{count} × {name}" for name, count in sorted(counter.items())) or "none"

    return (
        f"{scenario.title}: {found.charges} charges in {found.seconds:.0f} s, {listed(found.faults)}\n"
        f"  acted twice: {found.twice}   never: {found.never}\n"
        f"  last answers: {listed(found.final)}\n"
        f"  tried again after: {listed(found.refusals)}"
    )


@click.command()
@click.option("--charges", default=10_000, show_default=True)
@click.option("--conversations", default=1_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
def bench(charges: int, conversations: int, seed: int) -> None:
    for scenario in SCENARIOS:
        click.echo(report(scenario, measure(scenario, charges, seed)))
    right, done = measure_conversations(conversations, seed)
    click.echo(
        f"conversations: {right} of {conversations} had their last {KEPT_TURNS} turns, over {done['kills']} kills"
    )


def main() -> None:
    bench.main(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
