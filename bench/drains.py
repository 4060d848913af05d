"""Ten workers drained one by one under 10 s streams: ``python -m bench.drains --rounds 20`` (35 minutes).

Each worker has its sidecar. A caller begins streams at a fixed rate, whatever the pool does, through the client
library, which asks three of the sidecars. ``rumormill drain --wait`` drains one worker after another. For each drain
the bench takes the time from the worker's last byte to the return of the command. At the end each sidecar gets a
SIGTERM, and the bench takes the time until another sidecar's callers know that its worker drains. Each round is told as
it ends. With ``--minutes`` no round begins that might end later.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial

import click
import httpx2
import msgspec
import trio

from bench.ports import reserved_port
from rumormill.cli.demo.request_log import percentile
from rumormill.client import Pool
from rumormill.discovery.schema.workers import WorkersAnswer

RUMORMILL = (sys.executable, "-c", "from rumormill.cli.main import main; main()")
CHUNKS = 20
"""Parts of a stream, at equal distances."""
START_TIMEOUT = 60.0
LAG_BOUND = 1.0
"""Seconds from a worker's last byte to the end of its drain."""


class StreamWorker:
    """Answers every request with a stream that takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.url = ""
        self.under_way = 0
        self.last_end = 0.0
        self._seconds = seconds

    async def start(self, nursery: trio.Nursery) -> None:
        listeners = await nursery.start(partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1"))
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            request = b""
            while b"\r\n\r\n" not in request and (data := await stream.receive_some(4096)):
                request += data
            if b"GET /health" in request:
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            elif request:
                await self._stream(stream)
        except trio.BrokenResourceError:
            return

    async def _stream(self, stream: trio.SocketStream) -> None:
        self.under_way += 1
        try:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % CHUNKS)
            for _ in range(CHUNKS):
                await trio.sleep(self._seconds / CHUNKS)
                await stream.send_all(b"x")
        finally:
            self.under_way -= 1
            self.last_end = trio.current_time()


@dataclass
class Drains:
    """What was measured."""

    lags: list[float] = field(default_factory=list)
    """Seconds from a worker's last byte to the end of its drain."""
    rounds: int = 0
    under_way: int = 0
    closing: bool = False
    """Whether no more streams begin."""
    early: int = 0
    """Drains that ended while the worker still had requests."""
    streams: int = 0
    failures: list[str] = field(default_factory=list)
    sigterm: list[float] = field(default_factory=list)
    """Seconds from a SIGTERM until callers of another sidecar know."""


class Sidecars:
    """The agents' processes, at fixed ports."""

    def __init__(self, workers: list[StreamWorker]) -> None:
        self.gossip, self.http = [[reserved_port() for _ in workers] for _ in range(2)]
        self._workers = workers
        self.processes: list[subprocess.Popen[bytes]] = []

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.http[number]}"

    def start(self) -> None:
        for number, worker in enumerate(self._workers):
            flags = ["--name", f"w{number}", "--cluster", "bench", "--service", "embed", "--worker", worker.url]
            flags += ["--gossip", f"127.0.0.1:{self.gossip[number]}", "--http", f"127.0.0.1:{self.http[number]}"]
            flags += ["--join", f"127.0.0.1:{self.gossip[0]}", "--insecure-plaintext", "--probation", "0s"]
            self.processes.append(
                subprocess.Popen([*RUMORMILL, "agent", *flags], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


async def measure(count: int, rounds: int, seconds: float, rate: float, minutes: float) -> Drains:
    found, workers = Drains(), [StreamWorker(seconds) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for worker in workers:
            await worker.start(nursery)
        sidecars = Sidecars(workers)
        try:
            sidecars.start()
            await _until(sidecars, 0, lambda answer: sum(w.routable for w in answer.workers) == count)
            sources = [sidecars.url(number) for number in range(min(3, count))]
            async with Pool(sources, "embed") as pool, trio.open_nursery() as callers:
                callers.start_soon(_call, pool, rate, callers, found)
                await trio.sleep(seconds)
                await _drain_rounds(sidecars, workers, found, rounds, trio.current_time() + minutes * 60)
                await _until_answered(found, 3 * seconds)
                callers.cancel_scope.cancel()
            for number in range(1, count):
                await _terminate(sidecars, number, found)
        finally:
            sidecars.stop()
        nursery.cancel_scope.cancel()
    return found


async def _drain_rounds(
    sidecars: Sidecars, workers: list[StreamWorker], found: Drains, rounds: int, end: float
) -> None:
    longest = 0.0
    for number in range(1, rounds + 1):
        began = trio.current_time()
        if began + longest > end:
            return
        for position, worker in enumerate(workers):
            await _drain(sidecars, position, worker, found)
        found.rounds, longest = number, max(longest, trio.current_time() - began)
        worst = max(found.lags, default=0.0)
        click.echo(
            f"round {number}: {len(found.lags)} drains, the last byte to the end {worst * 1000:.0f} ms at most; "
            f"{found.streams} streams, {len(found.failures)} failed; {trio.current_time() - began:.0f} s"
        )


async def _until_answered(found: Drains, seconds: float) -> None:
    """No more streams begin; those under way are part of the result."""
    found.closing = True
    with trio.move_on_after(seconds):
        while found.under_way:
            await trio.sleep(0.1)
    if found.under_way:
        found.failures.append(f"{found.under_way} streams had not ended {seconds:g} s after the last drain")


async def _drain(sidecars: Sidecars, number: int, worker: StreamWorker, found: Drains) -> None:
    command = [*RUMORMILL, "drain", "--wait", "-o", "json", "--http", sidecars.url(number)]
    begun = trio.current_time()
    done = await trio.run_process(command, capture_stdout=True, check=False)
    ended = trio.current_time()
    if done.returncode != 0 or not json.loads(done.stdout)["drained"] or worker.under_way:
        found.early += 1
    elif worker.last_end > begun:
        found.lags.append(ended - worker.last_end)
    await trio.run_process([*RUMORMILL, "undrain", "--http", sidecars.url(number)], capture_stdout=True)
    await _until(sidecars, 0, lambda answer: any(w.name == f"w{number}" and w.routable for w in answer.workers))


async def _call(pool: Pool, rate: float, nursery: trio.Nursery, found: Drains) -> None:
    """Begin streams at this rate until the bench closes, and let them end."""
    rng, due = random.Random(1), trio.current_time()
    async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http:
        while not found.closing:
            due += rng.expovariate(rate)
            await trio.sleep_until(due)
            nursery.start_soon(_one, http, f"k{rng.randrange(10_000)}", found)
        while found.under_way:
            await trio.sleep(0.1)


async def _one(http: httpx2.AsyncClient, key: str, found: Drains) -> None:
    found.streams, found.under_way = found.streams + 1, found.under_way + 1
    try:
        answer = await http.get("/stream", headers={"Rumormill-Key": key})
        if answer.status_code != 200 or len(answer.content) != CHUNKS:
            found.failures.append(f"{answer.status_code}, {len(answer.content)} bytes")
    except Exception as error:  # whatever reaches the caller is a failure of the pool
        found.failures.append(repr(error))
    finally:
        found.under_way -= 1


async def _terminate(sidecars: Sidecars, number: int, found: Drains) -> None:
    """SIGTERM one sidecar, and wait until a caller that is blocked at the first one knows."""
    known: list[float] = []

    async def wait() -> None:
        name = f"w{number}"
        await _until(
            sidecars,
            0,
            lambda answer: all(w.name != name or w.readiness == "draining" for w in answer.workers),
        )
        known.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.5)
        begun = trio.current_time()
        sidecars.processes[number].send_signal(signal.SIGTERM)
    found.sigterm.append(known[0] - begun)
    await trio.sleep(0.2)


async def _until(sidecars: Sidecars, number: int, holds: object) -> None:
    """Ask a sidecar, blocking until its workers change, until the answer is so."""
    assert callable(holds)
    params: dict[str, str] = {"wait": "30s"}
    async with httpx2.AsyncClient(base_url=sidecars.url(number), timeout=START_TIMEOUT, trust_env=False) as http:
        with trio.fail_after(START_TIMEOUT):
            while True:
                try:
                    response = await http.get("/v1/workers", params=params)
                except httpx2.TransportError:
                    await trio.sleep(0.1)
                    continue
                if response.status_code == 200:
                    answer = msgspec.json.decode(response.content, type=WorkersAnswer)
                    if holds(answer):
                        return
                    params |= {"index": str(answer.index), "process": answer.process}


def report(found: Drains) -> str:
    lags, terms = sorted(found.lags), sorted(found.sigterm)
    kept = not found.failures and not found.early and lags and lags[-1] <= LAG_BOUND
    marks = " / ".join(f"{percentile(lags, share) * 1000:.0f}" for share in (0.0, 0.5, 0.9, 0.99, 1.0))
    known = " / ".join(f"{percentile(terms, share) * 1000:.0f}" for share in (0.5, 1.0))
    return "\n".join(
        [
            f"{found.rounds} rounds, {len(lags)} drains under load, {found.early} ended early; bound: 0 early",
            f"  {found.streams} streams, {len(found.failures)} failed; bound: 0 failed",
            f"  last byte to the end of the drain, min / median / p90 / p99 / max: {marks} ms; bound: 1000 ms",
            f"  SIGTERM to callers' knowledge, median / max: {known} ms; bound: 50 ms",
            *[f"  failed: {text}" for text in found.failures[:5]],
            "KEPT" if kept else "BROKEN",
        ]
    )


@click.command()
@click.option("--workers", default=10, show_default=True)
@click.option("--rounds", default=20, show_default=True, help="How often each worker is drained.")
@click.option("--stream", default=10.0, show_default=True, help="Seconds that each stream takes.")
@click.option("--minutes", default=60.0, show_default=True, help="No round begins that might end later.")
@click.option("--rate", default=4.0, show_default=True, help="Streams begun in a second.")
def bench(workers: int, rounds: int, stream: float, rate: float, minutes: float) -> None:
    """Drain workers one by one under streams. Exit code 1 if a bound is broken."""
    verdict = report(trio.run(measure, workers, rounds, stream, rate, minutes))
    click.echo(verdict)
    if verdict.endswith("BROKEN"):
        raise SystemExit(1)


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
