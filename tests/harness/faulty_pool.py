"""Three workers that can go wrong, each with a real agent, under keyed requests that may be sent again.

    async with faulty_pool(EMBEDDINGS) as pool:
        found = await pool.break_first(Fault.NAN)
        print(found.seconds, found.reason)
        await pool.mend()

`bench/worker_faults.py` measures with it what the tests only wait for.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import trio
from agents import Agent, Predicate, all_routable
from limits import LIVENESS_LIMIT
from misbehaving_worker import Fault, MisbehavingWorker

from rumormill.client import Pool
from rumormill.discovery.schema.workers import WorkersAnswer

RATE = 20.0
"""Requests a second, over all workers."""
EMBEDDINGS = ("--engine", "openai", "--probe", "embeddings")
COMPLETIONS = ("--engine", "openai")
COUNTED = ("--engine", "llama.cpp")


@dataclass(frozen=True, slots=True)
class Detection:
    """What became of a worker that went wrong."""

    seconds: float
    """From the fault until the last agent knew."""
    readiness: str
    reason: str
    """As the events of the worker's own agent say it."""


@dataclass
class FaultyPool:
    """The first worker goes wrong; the others are for the callers."""

    workers: list[MisbehavingWorker]
    agents: list[Agent]
    counters: Callable[[int], str] | None = None
    """The first worker's metrics page, by a count that grows ten times a second while the engine makes progress."""
    frozen: bool = False
    failed: int = 0
    answered: int = 0
    _count: int = 0
    _count_when_frozen: int = 0

    async def break_first(self, fault: Fault, *, freeze: bool = False) -> Detection:
        """Let the first worker go wrong, and wait until every agent keeps new work from it."""
        self.workers[0].fault, self.frozen = fault, freeze
        return await self._until_noticed(lambda readiness: readiness in ("critical", "starting"))

    async def break_softly(self, fault: Fault) -> Detection:
        """The same, for a fault after which a warning is enough."""
        self.workers[0].fault = fault
        return await self._until_noticed(lambda readiness: readiness != "passing")

    async def break_nothing(self, fault: Fault, seconds: float) -> None:
        """Let the first worker do this for so long, whatever the agents make of it."""
        self.workers[0].fault = fault
        await trio.sleep(seconds)

    async def mend(self) -> None:
        """Everything is well again; wait until all agents say so."""
        self.workers[0].fault, self.frozen = Fault.NONE, False
        for agent in self.agents:
            await agent.until(_all_passing)

    async def _until_noticed(self, noticed: Callable[[str], bool]) -> Detection:
        began = trio.current_time()
        knows: Predicate = lambda answer: any(w.name == "w1" and noticed(w.readiness) for w in answer.workers)  # noqa: E731
        async with trio.open_nursery() as nursery:
            for agent in self.agents:
                nursery.start_soon(agent.until, knows)
        seconds = trio.current_time() - began
        events = (await self.agents[0].ask("/v1/events"))["events"]
        own = [event["text"] for event in events if event["kind"] == "readiness" and event["member"] == "w1"]
        readiness = next(w.readiness for w in (await self.agents[0].workers()).workers if w.name == "w1")
        return Detection(seconds, readiness, own[-1])

    async def keep_counting(self) -> None:
        """Turn the counters of the engines on, and let them move."""
        while self.counters is not None:
            self._count += 1
            for worker in self.workers:
                if worker is not self.workers[0] or not self.frozen:
                    worker.metrics = self.counters(self._count)
                else:
                    worker.metrics = llama_page(self._count_when_frozen, running=2, waiting=3)
            if not self.frozen:
                self._count_when_frozen = self._count
            await trio.sleep(0.1)

    async def call(self, http: httpx2.AsyncClient, key: str, body: dict[str, object], path: str) -> None:
        try:
            response = await http.post(path, json=body, headers={"Rumormill-Key": key})
            response.raise_for_status()
        except httpx2.HTTPError:
            self.failed += 1
        else:
            self.answered += 1


def llama_page(decoded: int, running: int, waiting: int) -> str:
    """What llama.cpp's server writes."""
    return (
        f"llamacpp:n_decode_total {decoded}\nllamacpp:requests_processing {running}\n"
        f"llamacpp:requests_deferred {waiting}\n"
    )


@asynccontextmanager
async def faulty_pool(
    flags: Sequence[str], *, counters: Callable[[int], str] | None = None, size: int = 3
) -> AsyncIterator[FaultyPool]:
    """So many pairs, all passing, and callers that ask them for the rest of the block."""
    names = [f"w{number}" for number in range(1, size + 1)]
    async with trio.open_nursery() as nursery:
        pool = FaultyPool([await MisbehavingWorker.start(nursery) for _ in names], [], counters)
        nursery.start_soon(pool.keep_counting)
        for name, worker in zip(names, pool.workers, strict=True):
            join = ("--join", pool.agents[0].gossip) if pool.agents else ()
            pool.agents.append(await Agent.start(nursery, name, worker.url, *flags, "--probation", "0s", *join))
        for agent in pool.agents:
            await agent.until(all_routable(*names))
        await nursery.start(_callers, pool, "completions" if "--probe" not in flags else "embeddings")
        yield pool
        nursery.cancel_scope.cancel()


async def _callers(
    faulty: FaultyPool, kind: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Open-loop: a slow worker does not slow the callers down."""
    rng = random.Random(5)
    body: dict[str, object] = {"prompt": "1 2 3", "max_tokens": 4} if kind == "completions" else {"input": "fox"}
    async with (
        Pool([agent.http for agent in faulty.agents], "embed", replay="always", rng=rng) as pool,
        httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http,
        trio.open_nursery() as nursery,
    ):
        task_status.started()
        while True:
            nursery.start_soon(faulty.call, http, f"user-{rng.randrange(500)}", body, f"/v1/{kind}")
            await trio.sleep(1 / RATE)


def _all_passing(answer: WorkersAnswer) -> bool:
    return all(worker.readiness == "passing" for worker in answer.workers)
