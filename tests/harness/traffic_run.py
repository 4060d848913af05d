"""Requests at a steady rate through a proxy, while a story is told: none may fail, and the killed worker gets none."""

from __future__ import annotations

import math
import socket
from collections import deque
from dataclasses import dataclass, field

import httpx2
import trio
from limits import LIVENESS_LIMIT
from story import PoolStory

RATE = 100
"""Requests a second."""
RECENT = 60
"""Answers that are looked at to see whom a proxy uses."""
THINK = 0.02
"""Seconds that a request takes at a worker, so that some are under way at every moment."""


@dataclass
class TrafficRun:
    """One caller of a proxy. From the kill on, the worker's port is watched for what the proxy still tries."""

    pool: PoolStory
    url: str
    resends: bool = True
    """Whether the proxy also retries what had been sent. If not, what was under way at the killed worker may fail."""
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    """Those that failed, and that may have been under way at the killed worker: they were sent before the kill, and no
    other worker received them."""
    answers: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Which workers gave the last answers."""
    tried: list[float] = field(default_factory=list)
    """When the proxy connected to the killed worker's port, in seconds after the kill."""

    async def begin(self) -> None:
        """Wait until the proxy serves, and then send until the pool's story ends."""
        for worker in self.pool.workers.values():
            worker.think = THINK
        async with self._caller() as http:
            with trio.fail_after(LIVENESS_LIMIT):
                while not await self._served(http):
                    await trio.sleep(0.05)
        self.pool.nursery.start_soon(self._send)
        if self.resends:
            self.pool.nursery.start_soon(self._watch_killed)

    def judge(self) -> None:
        late = [round(seconds, 2) for seconds in self.tried]
        failures = len(self.failed) + len(self.cut_off)
        print(f"{self.sent} requests, {failures} failed; tries at the killed worker's port at {late[-3:]} s")
        assert self.sent > 50
        assert self.failed == []
        assert not self.resends or self.cut_off == []
        moved_on = self.pool.moved_on_at - self.pool.killed_at
        assert [seconds for seconds in self.tried if seconds > moved_on] == [], "the killed worker still gets requests"

    def _caller(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=LIVENESS_LIMIT, trust_env=False)

    async def _served(self, http: httpx2.AsyncClient) -> bool:
        try:
            return (await http.get(self.url)).status_code == 200
        except httpx2.TransportError:
            return False

    async def _send(self) -> None:
        async with self._caller() as http, trio.open_nursery() as nursery:
            begin, number = trio.current_time(), 0
            while True:
                nursery.start_soon(self._send_one, http, number)
                number += 1
                await trio.sleep_until(begin + number / RATE)

    async def _send_one(self, http: httpx2.AsyncClient, number: int) -> None:
        self.sent += 1
        began, key = trio.current_time(), f"key-{number}"
        try:
            answer = await http.get(self.url, headers={"Rumormill-Key": key})
            self.answers.append(answer.text)
            if answer.status_code != 200:
                self._failed(f"{answer.status_code} {answer.text[:80]}", key, began)
        except httpx2.TransportError as error:
            self._failed(repr(error), key, began)

    def _failed(self, how: str, key: str, began: float) -> None:
        now, killed_at = trio.current_time(), self.pool.killed_at or math.inf
        elsewhere = any(key in worker.keys for name, worker in self.pool.workers.items() if name != "w3")
        failed = self.cut_off if began <= killed_at < now and not elsewhere else self.failed
        failed.append(f"{key}: {how}, {now - killed_at:.2f} s after the kill")

    def _bound(self, sock: socket.socket, port: int) -> bool:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:  # the worker has not closed it yet
            return False
        return True

    async def _watch_killed(self) -> None:
        """Take the killed worker's port, and reset whoever connects."""
        port = self.pool.workers["w3"].port
        while not self.pool.killed_at:
            await trio.sleep(0.01)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while not self._bound(sock, port):
                await trio.sleep(0.01)
            sock.listen()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            while True:
                stream = await listener.accept()
                self.tried.append(trio.current_time() - self.pool.killed_at)
                await trio.aclose_forcefully(stream)
