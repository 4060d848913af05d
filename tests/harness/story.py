"""A pool for the programs of others to follow: real agents, workers in the test's own process, and one story for all.

    async with story() as pool:
        program = ...                                    # started against pool.observer
        await tell(pool, see)                            # see: what the program now routes to, by name of worker

The story: three workers serve; w3 is killed, with its sidecar; w2 drains, and returns; w2's release gets a fifth of the
traffic; w4 joins. After each step the program must come to see it. `see` returns the workers that the program would
send new work to, each with its weight (only their proportions matter), or with None if the program knows no weights.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from agents import Agent, all_routable
from limits import LIVENESS_LIMIT

CLIENT_PAGES = Path(__file__).parents[2] / "docs" / "run" / "clients"
Seen = Mapping[str, float | None]
See = Callable[[], Awaitable[Seen]]
AGAIN = 0.05
"""Seconds between two looks."""

KEY = re.compile(rb"\r\nrumormill-key: *([^\r]*)\r\n", re.IGNORECASE)


class NamedWorker:
    """A worker that answers with its name. Killed, it resets what it has under way and is gone from its port."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.think = 0.0
        self.keys: set[str] = set()
        """The keys of all requests that it has received."""
        self._scope = trio.CancelScope()
        self._listener: trio.SocketListener | None = None
        self._streams: set[trio.SocketStream] = set()

    @classmethod
    async def start(cls, nursery: trio.Nursery, name: str, port: int = 0) -> NamedWorker:
        worker = cls(name, port)
        worker.port = await nursery.start(worker._run)
        return worker

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _run(self, *, task_status: trio.TaskStatus[int]) -> None:
        with self._scope:
            (self._listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            task_status.started(self._listener.socket.getsockname()[1])
            await trio.serve_listeners(self._serve, [self._listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._streams.add(stream)
        try:
            request = b""
            while b"\r\n\r\n" not in request and (data := await stream.receive_some(65536)):
                request += data
            if request:
                await self._answer(stream, request)
        except trio.BrokenResourceError:
            pass
        finally:
            self._streams.discard(stream)

    async def _answer(self, stream: trio.SocketStream, request: bytes) -> None:
        if key := KEY.search(request):
            self.keys.add(key[1].decode())
        if not request.startswith(b"GET /health"):
            await trio.sleep(self.think)
        body = self.name.encode()
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
        await stream.send_all(head % len(body) + body)

    def kill(self) -> None:
        """Reset what is under way; whoever connects from now on is refused."""
        self._scope.cancel()
        if self._listener is not None:
            self._listener.socket.close()
        for stream in self._streams:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()


@dataclass
class PoolStory:
    """The agents and workers by name. The program asks the first agent, which stays."""

    nursery: trio.Nursery
    flags: Sequence[str]
    w4_port: int
    """The port of the worker that joins later; 0 for any."""
    agents: dict[str, Agent] = field(default_factory=dict)
    workers: dict[str, NamedWorker] = field(default_factory=dict)
    killed_at: float = 0.0
    moved_on_at: float = 0.0
    """When the program had followed the step after the kill."""

    @property
    def observer(self) -> Agent:
        return self.agents["w1"]

    @property
    def http_port(self) -> int:
        return int(self.observer.http.rpartition(":")[2])

    async def start(self, name: str, release: str) -> None:
        worker = self.workers[name] = await NamedWorker.start(self.nursery, name, self.w4_port if name == "w4" else 0)
        join = ("--join", self.observer.gossip) if self.agents else ()
        flags = self.flags if not self.agents else ()
        self.agents[name] = await Agent.start(
            self.nursery, name, worker.url, "--release", release, "--worker-check-period", "100ms", *join, *flags
        )

    async def kill(self, name: str) -> None:
        self.agents[name].signal(signal.SIGKILL)
        self.workers[name].kill()
        self.killed_at = trio.current_time()
        await self.agents[name].ended()

    async def ask(self, name: str, method: str, path: str, **json: Any) -> None:
        async with httpx2.AsyncClient(base_url=self.agents[name].http, timeout=LIVENESS_LIMIT, trust_env=False) as http:
            response = await http.request(method, path, json=json or None)
            assert response.status_code == 200, response.text

    async def until_settled(self) -> None:
        """A sidecar that has just started answers no format until it knows its pool."""
        async with httpx2.AsyncClient(base_url=self.observer.http, timeout=LIVENESS_LIMIT, trust_env=False) as http:
            with trio.fail_after(LIVENESS_LIMIT):
                while (await http.get("/v1/health/service/embed")).status_code == 503:
                    await trio.sleep(AGAIN)


@asynccontextmanager
async def story(*flags: str, w4_port: int = 0) -> AsyncIterator[PoolStory]:
    """Three agents with one view; `flags` are of the one that the program asks."""
    async with trio.open_nursery() as nursery:
        pool = PoolStory(nursery, flags, w4_port)
        await pool.start("w1", "v1")
        async with trio.open_nursery() as others:
            others.start_soon(pool.start, "w2", "v2")
            others.start_soon(pool.start, "w3", "v1")
        await pool.observer.until(all_routable("w1", "w2", "w3"))
        await pool.until_settled()
        yield pool
        nursery.cancel_scope.cancel()


async def tell(pool: PoolStory, see: See, tolerance: float = 0.02) -> None:
    """Tell the story. `tolerance` is how far a part of the traffic may be from the exact one: weights are rounded."""

    async def until_seen(wanted: Mapping[str, float]) -> None:
        await _until(see, wanted, tolerance)

    await until_seen({"w1": 1, "w2": 1, "w3": 1})
    await pool.kill("w3")
    await until_seen({"w1": 1, "w2": 1})
    print(f"the kill was known after {trio.current_time() - pool.killed_at:.2f} s")
    await pool.ask("w2", "PUT", "/v1/drain")
    await until_seen({"w1": 1})
    pool.moved_on_at = trio.current_time()
    await pool.ask("w2", "DELETE", "/v1/drain")
    await until_seen({"w1": 1, "w2": 1})
    await pool.ask("w1", "PUT", "/v1/canary", service="embed", release="v2", share=0.2)
    await until_seen({"w1": 4, "w2": 1})
    await pool.start("w4", "v1")
    await until_seen({"w1": 2, "w2": 1, "w4": 2})


async def _until(see: See, wanted: Mapping[str, float], tolerance: float) -> None:
    seen: Seen = {}
    with trio.move_on_after(LIVENESS_LIMIT):
        while True:
            seen = await see()
            if agrees(seen, wanted, tolerance):
                return
            await trio.sleep(AGAIN)
    raise AssertionError(f"the program sees {dict(seen)}, and not {dict(wanted)}")


def agrees(seen: Seen, wanted: Mapping[str, float], tolerance: float) -> bool:
    """Whether these are the workers, in these proportions if the program knows any."""
    if seen.keys() != wanted.keys():
        return False
    weights = {name: weight for name, weight in seen.items() if weight is not None}
    if not weights:
        return True
    whole, all_wanted = sum(weights.values()), sum(wanted.values())
    return all(abs(weights[name] / whole - wanted[name] / all_wanted) <= tolerance for name in wanted)


def documented(page: str, language: str, number: int = 0, **replaced: str | int) -> str:
    """A block of a page of docs/run/clients, with values of the example replaced: `_7380=4711` replaces 7380."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (CLIENT_PAGES / page).read_text(), re.MULTILINE | re.DOTALL)
    text = str(blocks[number])
    for old, new in replaced.items():
        assert old.lstrip("_") in text, f"{page} has no {old.lstrip('_')}"
        text = text.replace(old.lstrip("_"), str(new))
    return text


def program(name: str, *folders: str | Path) -> str:
    """The path of a real program. Skips the test if it is not installed."""
    for folder in [*map(str, folders), *os.environ["PATH"].split(":"), "/usr/sbin", "/sbin"]:
        path = Path(folder) / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    pytest.skip(f"{name} is not installed; as root, `make test-programs` installs it")


@asynccontextmanager
async def running(*command: str | Path, cwd: Path | None = None) -> AsyncIterator[None]:
    """A program for as long as the block runs. What it says is shown if the test fails.

    It is started by this thread, and not by one of trio's: Envoy's wheel has the kernel end it with the thread that
    started it.
    """
    process = subprocess.Popen([*map(str, command)], cwd=cwd, stdin=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, f"{command[0]} has ended with {process.returncode}"
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            for _ in range(500):
                if process.poll() is not None:
                    break
                await trio.sleep(0.01)
            process.kill()
            process.wait()


async def get(url: str, **headers: str) -> httpx2.Response | None:
    """The answer, or None where nobody answers."""
    try:
        async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT, trust_env=False) as http:
            return await http.get(url, headers=headers)
    except httpx2.TransportError:
        return None
