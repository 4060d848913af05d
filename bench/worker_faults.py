"""How long until a worker that goes wrong is out of every routing table: ``python -m bench.worker_faults``.

Three workers with their agents serve 20 keyed requests a second. The first one goes wrong in each way that
tests/harness/misbehaving_worker.py knows, several times at random moments. Its health path says 200 all along. For
each fault, the bench reports the time from the fault until the last agent keeps new work from the worker, its bound,
and the reason that the events give. The bound is the budget of 500 ms for each of three misses, plus 200 ms. An answer
that does not come shows a stall, as frozen counters do: 5.5 s while there is work, 10 s at rest.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "harness"))

from faulty_pool import COMPLETIONS, COUNTED, EMBEDDINGS, Detection, FaultyPool, faulty_pool, llama_page
from misbehaving_worker import Fault

THREE_MISSES, STALL, STALL_AT_REST = 3 * 0.5 + 0.2, 5.5, 10.0
BOUNDS: dict[Fault, float] = {
    Fault.ERROR: THREE_MISSES,
    Fault.UNAVAILABLE: THREE_MISSES,
    Fault.NAN: THREE_MISSES,
    Fault.EMPTY: THREE_MISSES,
    Fault.WRONG_LENGTH: THREE_MISSES,
    Fault.RESET: THREE_MISSES,
    Fault.LATE: THREE_MISSES,
}
UNANSWERED = (Fault.HANGING, Fault.HEADERS_ONLY, Fault.DRIP)


@dataclass(frozen=True)
class FaultFigures:
    """One fault, several times."""

    name: str
    bound: float
    found: list[Detection]

    def line(self) -> str:
        seconds = sorted(one.seconds for one in self.found)
        middle = seconds[len(seconds) // 2]
        kept = "within" if seconds[-1] <= self.bound else "BEYOND"
        figures = f"median {middle:5.2f} s  longest {seconds[-1]:5.2f} s  {kept} {self.bound:.1f} s"
        return f"{self.name:34} {figures}  {self.found[-1].readiness}: {self.found[-1].reason}"


async def _measure(pool: FaultyPool, fault: Fault, bound: float, times: int, rng: random.Random) -> FaultFigures:
    found = []
    for _ in range(times):
        await trio.sleep(2 + rng.random())  # at any moment between two probes
        found.append(await (pool.break_softly(fault) if fault is Fault.LATE else pool.break_first(fault)))
        await pool.mend()
    return FaultFigures(fault.value, bound, found)


async def _measure_unanswered(fault: Fault, flags: Sequence[str], times: int, rng: random.Random) -> FaultFigures:
    """Answers that do not come, each time in a new pool: a pause that ends is learned, and granted from then on."""
    found = []
    for _ in range(times):
        async with faulty_pool(flags) as pool:
            await trio.sleep(6 + rng.random() * 4)
            found.append(await pool.break_first(fault))
    return FaultFigures(fault.value, STALL, found)


async def _measure_freeze(name: str, busy: bool, times: int, rng: random.Random) -> FaultFigures:
    """Counters that stand still, with requests at work or at rest."""
    found = []
    running = 2 if busy else 0
    for _ in range(times):  # in new pools too
        async with faulty_pool(COUNTED, counters=lambda count: llama_page(count if busy else 1, running, 0)) as pool:
            await trio.sleep(6 + rng.random() * 4)
            found.append(await pool.break_first(Fault.HANGING, freeze=busy))
    return FaultFigures(name, STALL if busy else STALL_AT_REST, found)


async def measure(times: int, seed: int) -> list[FaultFigures]:
    """All faults, one after another."""
    rng = random.Random(seed)
    figures: list[FaultFigures] = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "probe.toml"
        file.write_text('kind = "embeddings"\n[expect]\nlength = 4\n')
        flags: Sequence[str] = (*EMBEDDINGS, "--probe-file", str(file))
        async with faulty_pool(flags) as pool:
            for fault, bound in BOUNDS.items():
                figures.append(await _measure(pool, fault, bound, times, rng))
                click.echo(figures[-1].line())
        for fault in UNANSWERED:
            figures.append(await _measure_unanswered(fault, flags, times, rng))
            click.echo(figures[-1].line())
    async with faulty_pool(COMPLETIONS) as pool:
        figures.append(await _measure(pool, Fault.EXCLAMATION, THREE_MISSES, times, rng))
        click.echo(figures[-1].line())
    for name, busy in (("counters frozen, requests wait", True), ("hangs while it is at rest", False)):
        figures.append(await _measure_freeze(name, busy, times, rng))
        click.echo(figures[-1].line())
    return figures


@click.command()
@click.option("--times", default=5, show_default=True, help="How often each fault happens.")
@click.option("--seed", default=1, show_default=True, help="Of the moments of the faults.")
def main(times: int = 5, seed: int = 1) -> None:
    """Let a worker go wrong in every way, and measure how long it is asked after that."""
    trio.run(measure, times, seed)


if __name__ == "__main__":
    main()
