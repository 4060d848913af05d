"""The load of the bench of effects: worker processes that are killed or frozen, and callers that never give up."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.ports import reserved_port

GIVE_UP_AFTER = 120.0
"""Seconds until a caller gives a request up. Only a hang takes so long."""
RETRY_PAUSE = 0.05
ANSWER_TIMEOUT = 10.0
"""Seconds until a caller tries another worker."""
START_LIMIT = 120.0
CALLERS = 24
DUPLICATES = 0.2
"""The share of requests that are sent twice at once."""


class BenchWorker:
    """One worker of the bench. It is started again on the same port."""

    def __init__(self, options: list[str]) -> None:
        self.port = reserved_port()
        self._command = [sys.executable, "-m", "bench.effects_worker", "--port", str(self.port), *options]
        self._process = self._started()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        self._process = self._started()

    def freeze(self, seconds: float) -> None:
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def wait_until_ready(self) -> None:
        wait_for_port(self.port, self._process)

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=Path(__file__).parents[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process accepts connections on the port of loopback."""
    ends = time.monotonic() + START_LIMIT
    while time.monotonic() < ends:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=START_LIMIT):
            return
        if process.poll() is not None:
            raise RuntimeError(f"a worker ended at its start; run it by hand: {process.args!r}")
        time.sleep(0.05)
    raise RuntimeError("a worker accepts no connection")


@contextmanager
def worker_processes(count: int, options: list[str]) -> Iterator[list[BenchWorker]]:
    """Workers that accept connections."""
    workers = [BenchWorker(options) for _ in range(count)]
    try:
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.kill()


@dataclass
class Callers:
    """Callers that send each request to some worker until it is answered for good."""

    ports: list[int]
    rng: random.Random
    patience: float = GIVE_UP_AFTER
    """Seconds until a request is given up."""
    refusals: Counter[str] = field(default_factory=Counter)
    """By what was answered or broke. Each was followed by another try."""
    final: Counter[str] = field(default_factory=Counter)
    """The last answers, by status and, for problems, name."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _own: threading.local = field(default_factory=threading.local)
    _connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def close(self) -> None:
        """Close the connections, once no thread asks any more."""
        for connection in self._connections:
            connection.close()

    def ask(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send one request, with its `id` as key, until it is answered 200 or its outcome is unknown."""
        ends = time.monotonic() + self.patience
        status, answer = 0, dict[str, Any]()
        while time.monotonic() < ends:
            try:
                status, answer = self._try(path, request)
            except (OSError, http.client.HTTPException) as error:
                self._count(self.refusals, type(error).__name__)
            else:
                name = str(answer.get("type", "")).rpartition(":")[2]
                if status == 200 or name not in ("still-running", "claim-lost", "store-unavailable"):
                    self._count(self.final, f"{status} {name}".strip())
                    return status, answer
                self._count(self.refusals, f"{status} {name}")
            time.sleep(RETRY_PAUSE)
        self._count(self.final, "given up")
        return status, answer

    def _try(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            port = self.rng.choice(self.ports)
        connection = self._connection(port)
        headers = {"Idempotency-Key": str(request["id"]), "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(request), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except BaseException:
            connection.close()
            raise

    def _connection(self, port: int) -> http.client.HTTPConnection:
        """This thread's own connection to the worker. It is opened anew where it broke."""
        own: dict[int, http.client.HTTPConnection] = self._own.__dict__.setdefault("connections", {})
        if port not in own:
            own[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT)
            self._connections.append(own[port])
        return own[port]

    def _count(self, counter: Counter[str], name: str) -> None:
        with self._lock:
            counter[name] += 1


@contextmanager
def faults(workers: list[BenchWorker], rng: random.Random, *, freeze: float = 0.0) -> Iterator[Counter[str]]:
    """Kill one worker after another while the block runs, or freeze every second one for `freeze` seconds."""
    ended, done = threading.Event(), Counter[str]()

    def run() -> None:
        while not ended.wait(rng.uniform(0.2, 0.8)):
            worker = rng.choice(workers)
            if freeze and rng.random() < 0.5:
                worker.freeze(freeze)
                done["freezes"] += 1
            else:
                worker.kill()
                done["kills"] += 1
                worker.start_again()
                worker.wait_until_ready()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.join()


def charge_all(callers: Callers, charges: int) -> None:
    """Every charge once, and a fifth of them twice at the same time."""
    with ThreadPoolExecutor(CALLERS) as pool:
        for number in range(charges):
            for _ in range(2 if callers.rng.random() < DUPLICATES else 1):
                pool.submit(callers.ask, "/charge", {"id": f"charge-{number}"})


def converse_all(callers: Callers, conversations: int, turns: int) -> list[list[str]]:
    """Every conversation turn by turn. Returns what the worker of each last turn found."""

    def converse(number: int) -> list[str]:
        found: list[str] = []
        for turn in range(turns):
            asked = {"session": f"s{number}", "id": f"s{number}-{turn}", "text": f"turn {turn} of {number}"}
            found = callers.ask("/turn", asked)[1].get("before", [])
        return found

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(converse, range(conversations)))
