"""The discovery endpoint compared with a minimal one, interleaved: ``python -m bench.discovery`` (half a minute).

The baseline is a minimal server: httptools on trio streams, one fixed answer of the same size, without deadlines,
routing or fairness. Read the ratios: both servers, each in its own process, take turns within each round, and the
median round counts.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httptools
import trio

ROUNDS = 5
SECONDS = 1.0
CONNECTIONS = 32
SATURATING = 1000
BLOCKED = 5000
WORKERS = 6
"""Enough for an answer of about 2 kB."""


# ---- The servers, each in its own process


class MinimalServer:
    """The baseline."""

    def __init__(self, body: bytes) -> None:
        self.answer = b'HTTP/1.1 200 OK\r\nETag: W/"x"\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)
        self.unchanged = b'HTTP/1.1 304 Not Modified\r\nETag: W/"x"\r\n\r\n'
        self.changed = trio.Event()

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        target, conditional, complete = b"", False, 0

        class Protocol:
            def on_url(self, part: bytes) -> None:
                nonlocal target
                target = part

            def on_header(self, name: bytes, _value: bytes) -> None:
                nonlocal conditional
                conditional = conditional or name.lower() == b"if-none-match"

            def on_message_complete(self) -> None:
                nonlocal complete
                complete += 1

        parser = httptools.HttpRequestParser(Protocol())
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await stream.receive_some(8192):
                    parser.feed_data(data)
                    if complete:
                        if b"index=" in target:
                            await self.changed.wait()
                        await stream.send_all(self.unchanged if conditional else self.answer)
                        conditional, complete = False, 0


class UnknownLoads:
    """A sidecar's knowledge of loads, where there is none."""

    def loads(self) -> dict[bytes, Any]:
        return {}

    def now(self) -> float:
        return 0.0


class StaticSidecar:
    """A sidecar that only answers with its pool."""

    weight = 1000
    activity = UnknownLoads()

    def view(self) -> Any:
        return _pool(self.weight)


async def serve(kind: str) -> None:
    """Print the port; then take commands from standard input: `change`, `lag`."""
    from rumormill.discovery.server import DiscoveryServer

    ours = StaticSidecar()
    server = DiscoveryServer(commands=ours, process="bench", wall_offset=0.0, rng=random.Random(1))  # type: ignore[arg-type]
    server.pool_changed()
    bare = MinimalServer(b"x" * 2048)
    worst = 0.0
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=8192)
    print(listeners[0].socket.getsockname()[1], flush=True)

    async def heartbeat() -> None:
        nonlocal worst
        while True:
            due = time.perf_counter() + 0.005
            await trio.sleep(0.005)
            worst = max(worst, time.perf_counter() - due)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        if kind == "ours":
            nursery.start_soon(server.serve, listeners)
        else:
            nursery.start_soon(trio.serve_listeners, bare.serve, listeners)
        commands = trio.lowlevel.FdStream(0)
        while command := await commands.receive_some(64):
            if command.strip() == b"change":
                ours.weight += 1
                server.pool_changed()
                bare.change()
            else:
                print(worst, flush=True)
                worst = 0.0
        nursery.cancel_scope.cancel()


def _pool(weight: int) -> Any:
    from rumormill.membership.record import InstanceId, Liveness, Readiness
    from rumormill.membership.view import Connectivity, Member, PoolView

    def member(number: int) -> Member:
        return Member(
            name=f"w{number}", generation=1, instance=InstanceId(bytes([number]) * 16), incarnation=1,
            address=("127.0.0.1", 7946), service="embed", url=f"http://10.0.0.{number}:9001",
            zone="a", release="v1", weight=weight,
            readiness=Readiness.PASSING, tags={}, liveness=Liveness.ALIVE, pending=False, since=0.0, why="joined",
        )  # fmt: skip

    return PoolView("bench", "w1", Connectivity.CONNECTED, tuple(member(number) for number in range(WORKERS)))


# ---- The load


class Server:
    """One running server."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.discovery", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def command(self, text: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + b"\n")
        self._process.stdin.flush()

    def lag(self) -> float:
        """The worst lateness of a 5 ms timer in the server's loop since the last call, in milliseconds."""
        self.command(b"lag")
        assert self._process.stdout is not None
        return float(self._process.stdout.readline()) * 1e3

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    @contextlib.contextmanager
    def connected(self, count: int) -> Iterator[tuple[select.epoll, dict[int, socket.socket]]]:
        sockets = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]
        try:
            with select.epoll() as poll:
                for each in sockets:
                    poll.register(each, select.EPOLLIN)
                yield poll, {each.fileno(): each for each in sockets}
        finally:
            for each in sockets:
                each.close()


def rate(server: Server, request: bytes, connections: int) -> float:
    """Thousands of answers per second. Each connection sends its next request as soon as it has an answer."""
    with server.connected(connections) as (poll, sockets):
        for each in sockets.values():
            each.send(request)
        first = poll.poll()[0][0]
        size = len(sockets[first].recv(65536))
        sockets[first].send(request)
        count, begin = 0, time.perf_counter()
        while (now := time.perf_counter()) < begin + SECONDS:
            for fd, _ in poll.poll(1):
                if len(sockets[fd].recv(65536)) != size:
                    raise SystemExit("an answer arrived in pieces, so the figures would be wrong")
                sockets[fd].send(request)
                count += 1
        return count / (now - begin) / 1e3


def notification_delay(server: Server, request: bytes) -> float:
    """Milliseconds until the last of many blocked callers has the answer to one change."""
    with server.connected(BLOCKED) as (poll, sockets):
        for each in sockets.values():
            each.send(request)
        time.sleep(1)
        server.lag()
        begin = time.perf_counter()
        server.command(b"change")
        left = BLOCKED
        while left:
            for fd, _ in poll.poll(10):
                sockets[fd].recv(65536)
                left -= 1
        return (time.perf_counter() - begin) * 1e3


def compare(title: str, unit: str, ours: list[float], bare: list[float]) -> None:
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    print(f"{title:44}{statistics.median(ours):9.1f}{statistics.median(bare):9.1f} {unit:5}{ratio:7.2f}x", flush=True)


def main() -> None:
    ask = b"GET /v1/workers?service=embed%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    plain = ask % (b"", b"")
    sides = {"ours": Server("ours"), "bare": Server("bare")}
    try:
        print(f"{'':44}{'ours':>9}{'minimal':>9}")
        for title, request in (
            ("200, 32 connections", {"ours": plain, "bare": plain}),
            ("304, 32 connections", dict.fromkeys(sides, ask % (b"", b'If-None-Match: W/"bench-1"\r\n'))),
        ):
            rates = [[rate(sides[side], request[side], CONNECTIONS) for side in sides] for _ in range(ROUNDS)]
            compare(title, "k/s", *(list(side) for side in zip(*rates, strict=True)))
        lags: dict[str, list[float]] = {"ours": [], "bare": []}
        waits: dict[str, list[float]] = {"ours": [], "bare": []}
        wakes: dict[str, list[float]] = {"ours": [], "bare": []}
        for index in range(1, ROUNDS + 1):
            for side, server in sides.items():
                server.lag()
                rate(server, plain, SATURATING)
                lags[side].append(server.lag())
                blocked = b"&index=%d&process=bench&wait=1m" % index
                waits[side].append(notification_delay(server, ask % (blocked, b"")))
                wakes[side].append(server.lag())
        compare(f"a 5 ms timer's worst lateness, {SATURATING} callers", "ms", lags["ours"], lags["bare"])
        compare(f"{BLOCKED} blocked queries answered after a change", "ms", waits["ours"], waits["bare"])
        compare("a 5 ms timer's worst lateness meanwhile", "ms", wakes["ours"], wakes["bare"])
    finally:
        for server in sides.values():
            server.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(serve, sys.argv[1])
    else:
        main()
