"""Hostile callers at one sidecar of three: ``python -m bench.hostile`` (four minutes; needs root and wrk).

Each kind of caller has the pool for ten seconds; `--seconds 60 saturated` holds one of them for longer. Meanwhile

- another caller connects anew every 20 ms and asks for the workers,
- the packets of the sidecar are timed by the kernel where they arrive, at the other two members,
- the sidecar's memory is read.

A kind passes if that other caller always had its answer within 50 ms, the sidecar's packets to each member were never
more than 300 ms apart, nobody was suspected or evicted, and the memory grew by less than 128 MB. The measuring process
goes before the others on the processor, so that it times the sidecar and not the load beside it.

Last come 5000 blocked queries: none may wake while nothing that routes changes, and all have the answer to
a change within 150 ms.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.request import Request, urlopen

import click
import trio

from bench.hostile_load import ADDRESS, REQUEST, connect, kinds
from bench.packet_times import PacketTimes
from rumormill.cli.demo.pool_watch import PoolWatch, everyone_routable
from rumormill.cli.demo.processes import LocalPool, LocalPoolSettings
from rumormill.cli.demo.request_log import percentile

SECONDS: Final = 10.0
BLOCKED: Final = 5000
MOST_DELAY, MOST_GAP, MOST_GROWTH, MOST_NEWS = 0.05, 0.3, 128 << 20, 0.15
TIMEOUT: Final = 30.0
BLOCKING: Final = "GET /v1/workers?service=embed&index={index}&wait=600s HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Suffered:
    """What one kind of caller did to the sidecar and to others."""

    delays: list[float] = field(default_factory=list)
    refused: int = 0
    gap: float = 0.0
    growth: int = 0
    suspicions: int = 0
    evictions: int = 0

    @property
    def passes(self) -> bool:
        answered = bool(self.delays) and max(self.delays) <= MOST_DELAY and not self.refused
        return answered and self.gap <= MOST_GAP and self.growth < MOST_GROWTH and not self.suspicions + self.evictions

    def row(self, kind: str) -> str:
        """One line of the table."""
        ordered = sorted(self.delays)
        delays = " / ".join(f"{percentile(ordered, share) * 1e3:.0f}" for share in (0.5, 0.99, 1.0))
        cells = [kind, delays, self.refused, f"{self.gap * 1e3:.0f}", f"{self.growth / 1e6:.0f}"]
        cells += [f"{self.suspicions}, {self.evictions}", "yes" if self.passes else "**no**"]
        return f"| {' | '.join(map(str, cells))} |"


HEADER: Final = (
    "| callers | another caller waited, ms (median / p99 / worst) | refused | longest gap between packets, ms "
    "| memory grew, MB | suspected, evicted | within bounds |\n|---|---|---|---|---|---|---|"
)


class OtherCaller:
    """Connects anew, asks and waits, every 20 ms, in a thread of its own."""

    def __init__(self, port: int, suffered: Suffered) -> None:
        self._port = port
        self._suffered = suffered
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            began = time.monotonic()
            try:
                with connect(self._port) as caller:
                    caller.sendall(REQUEST)
                    answered = caller.recv(65536).startswith(b"HTTP/1.1 200")
            except OSError:
                answered = False
            self._suffered.refused += not answered
            self._suffered.delays.append(time.monotonic() - began)


@contextmanager
def running_pool() -> Iterator[LocalPool]:
    """Three workers and sidecars with one view. The first answers DNS too."""
    with LocalPool(LocalPoolSettings(cluster="bench", agent_flags=("--dns", f"{ADDRESS}:0"))) as pool:
        pool.start()
        watch = PoolWatch({member.name: member.url for member in pool}, pool.settings.service)

        async def settle() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(watch.run)
                await watch.until(pool.members, everyone_routable(pool.members), "one view", TIMEOUT)
                nursery.cancel_scope.cancel()

        trio.run(settle)
        time.sleep(1)
        yield pool


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def dns_port(pool: LocalPool) -> int:
    found = re.search(r"dns[^0-9]*127\.0\.0\.1:(\d+)", pool["w1"].sidecar.log.read_text())
    assert found, "w1 has not said where it answers DNS"
    return int(found[1])


def resident(pool: LocalPool) -> int:
    """Bytes of memory of the first sidecar."""
    (line,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pool['w1'].sidecar.pid}/status").read_text())
    return int(line) * 1024


def counted(pool: LocalPool, name: str) -> int:
    """A counter, summed over all members."""
    total = 0.0
    for member in pool:
        with urlopen(f"{member.url}/metrics") as answer:
            total += sum(float(value) for value in re.findall(rf"^{name}\S* (\S+)$", answer.read().decode(), re.M))
    return int(total)


def load_command(kind: str, pool: LocalPool, seconds: float) -> list[str]:
    like_the_pool = ["nice", "-n", "10"]
    if kind == "saturated":
        url = f"{pool['w1'].url}/v1/workers?service=embed"
        return [*like_the_pool, "wrk", "-t1", "-c32", f"-d{seconds:g}s", url]
    port = dns_port(pool) if kind == "dns" else port_of(pool["w1"].url)
    return [*like_the_pool, sys.executable, "-m", "bench.hostile_load", kind, str(port), str(seconds)]


def suffer(kind: str, pool: LocalPool, seconds: float) -> Suffered:
    suffered = Suffered()
    before = counted(pool, "rumormill_suspicions_total"), counted(pool, "rumormill_evictions_total"), resident(pool)
    most = before[2]
    with (
        PacketTimes(port_of(pool["w1"].url)) as packets,
        subprocess.Popen(load_command(kind, pool, seconds), stdout=subprocess.PIPE) as load,
        OtherCaller(port_of(pool["w1"].url), suffered),
    ):
        while load.poll() is None:
            most = max(most, resident(pool))
            time.sleep(0.05)
    suffered.gap = packets.longest_gap(receivers=2)
    suffered.growth = most - before[2]
    suffered.suspicions = counted(pool, "rumormill_suspicions_total") - before[0]
    suffered.evictions = counted(pool, "rumormill_evictions_total") - before[1]
    return suffered


def blocked(pool: LocalPool, seconds: float) -> str:
    """How many blocked queries woke for nothing, and how long the last one waited for a change."""
    url = pool["w1"].url
    with urlopen(f"{url}/v1/workers?service=embed") as answer:
        index = answer.headers["X-Rumormill-Index"]
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        callers: dict[int, socket.socket] = {}
        for _ in range(BLOCKED):
            caller = stack.enter_context(connect(port_of(url)))
            caller.sendall(BLOCKING.format(index=index).encode())
            callers[caller.fileno()] = caller
            poll.register(caller, select.EPOLLIN)
        time.sleep(1)
        woken = _answers(poll, callers, lambda: time.monotonic() < begin + seconds, begin := time.monotonic())[0]
        began = time.monotonic()
        change = Request(f"{url}/v1/canary", data=b'{"service":"embed","release":"v2","share":0.1}', method="PUT")
        threading.Thread(target=lambda: urlopen(change).close()).start()
        told, last = _answers(poll, callers, lambda: len(callers) > 0 and time.monotonic() < began + TIMEOUT, began)
    passes = woken == 0 and told == BLOCKED and last <= MOST_NEWS
    return (
        f"{BLOCKED} blocked queries: {woken} woke in {seconds:g} s without a change; {told} were told of one, the last "
        f"after {last * 1e3:.0f} ms; within bounds: {'yes' if passes else '**no**'}"
    )


def _answers(
    poll: select.epoll, callers: dict[int, socket.socket], go_on: Callable[[], bool], began: float
) -> tuple[int, float]:
    """How many callers got an answer, and the seconds from `began` to the last."""
    count, last = 0, 0.0
    while go_on():
        for number, _ in poll.poll(0.1):
            poll.unregister(number)
            callers.pop(number)
            count, last = count + 1, time.monotonic() - began
    return count, last


@click.command()
@click.argument("asked", nargs=-1)
@click.option("--seconds", default=SECONDS, show_default=True, help="How long each kind of caller stays.")
def bench(asked: tuple[str, ...], seconds: float) -> None:
    """Hostile callers at one sidecar of three."""
    names = {"saturated": "wrk, 32 connections", **dict(kinds())}
    with running_pool() as pool:
        os.nice(-10)
        click.echo(HEADER)
        for kind in asked or names:
            if kind in names:
                click.echo(suffer(kind, pool, seconds).row(kind))
        if not asked or "blocked" in asked:
            click.echo(blocked(pool, seconds))


def main() -> None:
    bench(args=[], standalone_mode=False)


if __name__ == "__main__":
    bench()
