"""What a request costs through a pool, beside the bare library: ``python -m bench.client_cost`` (two minutes).

A worker in a process of its own answers at once, with its real sidecar beside it. The bare httpx2 client and the pool
take turns, ten requests at a time, so that both meet the same machine. A figure is the ratio of the two medians.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click
import httpx2

from rumormill.client import Pool, SyncPool, Worker

TURN = 10
"""Requests in one turn."""
STREAMS = 2000
TIMEOUT = 120.0
BODY = b"x" * 1024
COMMAND = (sys.executable, "-c", "from rumormill.cli.main import main; main()")
NO_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64)

AskOnce = Callable[[], Awaitable[httpx2.Response]]
Acquire = Callable[[str | None], AbstractContextManager[Worker]]


@contextmanager
def worker_and_sidecar() -> Iterator[tuple[str, str]]:
    """The worker's URL and its sidecar's."""
    flags = ("--name", "w1", "--cluster", "bench", "--service", "embed", "--gossip", "127.0.0.1:0")
    with _process((sys.executable, "-m", "bench.client_cost_worker"), "url") as worker:
        agent = (*COMMAND, "agent", *flags, "--http", "127.0.0.1:0", "--worker", worker, "--insecure-plaintext")
        with _process(agent, "http") as http:
            yield worker, f"http://{http}"


@contextmanager
def _process(command: tuple[str, ...], field: str) -> Iterator[str]:
    """Yields what the process's line about serving has in this field."""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            yield next(line[field] for line in map(json.loads, process.stderr) if line.get("event") == "serving")
        finally:
            process.kill()


async def _compare(what: str, bare: AskOnce, ours: AskOnce, turns: int) -> None:
    """Print the ratios of the medians of ours to the bare library: of time, and of this process's processor time."""
    times: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for number in range(turns + turns // 10 + 2):
        for ask, taken, used in zip((bare, ours), times, processor, strict=True):
            began = time.process_time()
            seconds = [await _timed(ask) for _ in range(TURN)]
            if number > turns // 10:  # the first turns fill caches and connections
                taken += seconds
                used.append((time.process_time() - began) / TURN)
    time_of, use_of = ([statistics.median(each) for each in both] for both in (times, processor))
    click.echo(
        f"  {what:22} {time_of[1] / time_of[0]:5.2f} x   ({time_of[0] * 1e6:.0f} and {time_of[1] * 1e6:.0f} us), "
        f"processor time {use_of[1] / use_of[0]:5.2f} x   ({use_of[0] * 1e6:.0f} and {use_of[1] * 1e6:.0f} us)"
    )


async def _timed(ask: AskOnce) -> float:
    began = time.perf_counter()
    response = await ask()
    taken = time.perf_counter() - began
    assert response.status_code == 200
    return taken


def _asking(http: httpx2.AsyncClient, method: str) -> AskOnce:
    content = BODY if method == "POST" else None
    return lambda: http.request(method, "/", content=content)


def _sync_asking(http: httpx2.Client, method: str) -> AskOnce:
    content = BODY if method == "POST" else None

    async def ask() -> httpx2.Response:
        return http.request(method, "/", content=content)

    return ask


def _acquire(acquire: Acquire) -> None:
    for key in (None, "user-1"):
        best = float("inf")
        for _ in range(40):
            began = time.perf_counter()
            for _ in range(250):
                with acquire(key):
                    pass
            best = min(best, (time.perf_counter() - began) / 250)
        click.echo(f"  {'acquire(key)' if key else 'acquire()':22} {best * 1e6:5.1f} us")


async def _asynchronous(worker: str, sidecar: str, turns: int) -> None:
    async with (
        Pool(sidecar, "embed") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=TIMEOUT) as ours,
        httpx2.AsyncClient(base_url=worker, timeout=TIMEOUT, trust_env=False, limits=NO_LIMITS) as bare,
    ):
        for method in ("GET", "POST"):
            await _compare(method, _asking(bare, method), _asking(ours, method), turns)
        _acquire(pool.acquire)
        connections = [await _connections(http) for http in (bare, ours)]
        click.echo("  connections for 2000 requests, 20 at a time: bare {}, pool {}".format(*connections))


async def _connections(http: httpx2.AsyncClient) -> int:
    """How many more connections the worker sees after a burst of requests."""

    async def opened() -> int:
        return int((await http.get("/connections")).json()["connections"])

    async def some() -> None:
        for _ in range(100):
            (await http.get("/")).raise_for_status()

    before = await opened()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(some())
    return await opened() - before


async def _synchronous(worker: str, sidecar: str, turns: int) -> None:
    with (
        SyncPool(sidecar, "embed") as pool,
        httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=TIMEOUT) as ours,
        httpx2.Client(base_url=worker, timeout=TIMEOUT, trust_env=False, limits=NO_LIMITS) as bare,
    ):
        for method in ("GET", "POST"):
            await _compare(method, _sync_asking(bare, method), _sync_asking(ours, method), turns)
        _acquire(pool.acquire)


async def all_streams(http: httpx2.AsyncClient, streams: int = STREAMS) -> float:
    """Open all streams, then read all to their ends. Returns the seconds."""
    opened = asyncio.Semaphore(0)
    everyone = asyncio.Event()

    async def one() -> None:
        async with http.stream("GET", "/stream") as response:
            chunks = response.aiter_bytes()
            await anext(chunks)
            opened.release()
            await everyone.wait()
            assert [chunk async for chunk in chunks] == [b"hello"]

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(one())
        for _ in range(streams):
            await opened.acquire()
        (await http.get("/release")).raise_for_status()
        everyone.set()
    return time.perf_counter() - began


async def _streams(worker: str, sidecar: str) -> None:
    async with (
        Pool(sidecar, "embed") as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=TIMEOUT) as ours,
        httpx2.AsyncClient(base_url=worker, timeout=TIMEOUT, trust_env=False, limits=NO_LIMITS) as bare,
    ):
        through_pool, alone = await all_streams(ours), await all_streams(bare)
    click.echo(
        f"  {STREAMS} streams at once     {through_pool / alone:5.2f} x   ({alone:.1f} and {through_pool:.1f} s)"
    )


@click.command()
@click.option("--turns", default=200, show_default=True, help="turns of ten requests for each")
def main(turns: int) -> None:
    """Print the ratios of the pool's median to that of the bare library."""
    with worker_and_sidecar() as (worker, sidecar):
        gc.freeze()
        click.echo("Pool on asyncio")
        asyncio.run(_asynchronous(worker, sidecar, turns))
        click.echo("SyncPool")
        asyncio.run(_synchronous(worker, sidecar, turns))
        click.echo("Streams")
        asyncio.run(_streams(worker, sidecar))


if __name__ == "__main__":
    main()
