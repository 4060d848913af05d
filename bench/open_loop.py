"""Requests at a steady rate, whatever becomes of them. Latency counts from the moment each was meant to be sent.

load = OpenLoop(http, rate=100.0)
await load.run(20.0)
print(figures(load.requests))
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2
import trio

from rumormill.cli.demo.request_log import percentile
from rumormill.client.rules.retries import ATTEMPTS

USERS = 1000
UNLIMITED = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
"""A client that waits for a free connection would hide what waits behind it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request. Times are monotonic seconds."""

    due: float
    begun: float
    ended: float
    trouble: str | None
    """Why it failed: an error, or a status."""
    worker: str | None = None
    attempts: int = 0
    """How many the pool made; 0 behind a proxy."""

    @property
    def seconds(self) -> float:
        return self.ended - self.due


@dataclass
class OpenLoop:
    """POSTs, each with a small JSON body; with a key each where ``keyed``."""

    http: httpx2.AsyncClient
    rate: float = 100.0
    keyed: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    requests: list[Sent] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        """Send for so long, and wait for every answer."""
        begin = time.monotonic()
        async with trio.open_nursery() as nursery:
            for number in range(round(seconds * self.rate)):
                due = begin + number / self.rate
                await trio.sleep(max(0.0, due - time.monotonic()))
                nursery.start_soon(self._one, due)

    async def _one(self, due: float) -> None:
        headers = {"Content-Type": "application/json"}
        if self.keyed:
            headers["Rumormill-Key"] = f"user-{self.rng.randrange(USERS)}"
        trouble = worker = None
        attempts: list[object] = []
        begun = time.monotonic()
        try:
            answer = await self.http.post(
                "/v1/embeddings", content=b'{"input": "a fox"}', headers=headers, extensions={ATTEMPTS: attempts}
            )
            if answer.status_code == 200:
                worker = json.loads(answer.content)["worker"]
            else:
                trouble = f"status {answer.status_code}"
        except Exception as error:  # whatever it is, the request has failed
            trouble = f"{type(error).__name__}: {error}"
        self.requests.append(Sent(due, begun, time.monotonic(), trouble, worker, len(attempts)))


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Latencies in seconds, of all requests: waiting for an error is waiting too."""

    requests: int
    failed: int
    p50: float
    p99: float
    slowest: float
    slowest_failure: float
    late: float
    """How late the caller itself was at most. The machine causes this, and it is part of the latencies."""
    troubles: tuple[tuple[str, int], ...]


def figures(requests: Sequence[Sent]) -> LoadFigures:
    ordered = sorted(sent.seconds for sent in requests)
    troubles = Counter(sent.trouble for sent in requests if sent.trouble)
    return LoadFigures(
        len(ordered),
        troubles.total(),
        percentile(ordered, 0.5),
        percentile(ordered, 0.99),
        percentile(ordered, 1.0),
        max((sent.seconds for sent in requests if sent.trouble), default=0.0),
        max((sent.begun - sent.due for sent in requests), default=0.0),
        tuple(troubles.most_common(3)),
    )
