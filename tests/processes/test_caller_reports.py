"""What callers say to any sidecar reaches the worker's own: that it failed them, and that it makes progress."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import trio
from agents import Agent, all_routable
from limits import LIVENESS_LIMIT
from misbehaving_worker import Fault, MisbehavingWorker

ONCE = ("--worker-check-period", "1h")
"""By itself, the sidecar would not look again before the test has failed."""


@asynccontextmanager
async def two_pairs(*flags: str) -> AsyncIterator[tuple[Agent, Agent, list[MisbehavingWorker]]]:
    async with trio.open_nursery() as nursery:
        workers = [await MisbehavingWorker.start(nursery) for _ in range(2)]
        probed = ("--engine", "openai", "--probe", "embeddings", *flags)
        w1 = await Agent.start(nursery, "w1", workers[0].url, *probed)
        w2 = await Agent.start(nursery, "w2", workers[1].url, "--join", w1.gossip, *probed)
        for agent in (w1, w2):
            await agent.until(all_routable("w1", "w2"))
        yield w1, w2, workers
        nursery.cancel_scope.cancel()


async def test_a_doubt_reaches_the_workers_own_sidecar_which_judges_for_itself() -> None:
    async with two_pairs(*ONCE) as (w1, w2, workers):
        await _say(w2, "Rumormill-Doubts", ",".join([await _id_of(w1), await _id_of(w2)]))
        await _until_asked_twice(workers)
        assert {w.readiness for w in (await w1.workers()).workers} == {"passing"}, "a doubt by itself decides nothing"
        workers[0].fault = Fault.NAN
        await trio.sleep(1)  # doubts that come sooner after another are not passed on
        await _say(w2, "Rumormill-Doubts", await _id_of(w1))
        for agent in (w1, w2):
            answer = await agent.until(lambda answer: any(w.readiness == "critical" for w in answer.workers))
            assert [w.name for w in answer.workers if w.readiness == "critical"] == ["w1"]


async def test_what_callers_of_another_sidecar_see_finished_keeps_a_busy_worker_in(tmp_path) -> None:
    """Its probe waits behind their requests. By its silence alone it would be out after three budgets, 6 s."""
    file = tmp_path / "probe.toml"
    file.write_text('kind = "embeddings"\nbudget = "2s"\ngive-up = "30s"\n')
    async with two_pairs("--probe-file", str(file)) as (w1, w2, workers):
        caller, busy = "00112233aabbccdd", await _id_of(w1)
        workers[0].fault = Fault.HANGING
        for finished in range(30):
            await _say(w2, "Rumormill-Requests", f"{caller};{busy}=4/{finished}")
            await trio.sleep(0.4)
        assert "critical" not in [line.get("readiness") for line in w1.lines]
        await w2.until(lambda answer: any(w.readiness == "critical" for w in answer.workers))


async def _id_of(agent: Agent) -> str:
    return next(w.instance[:16] for w in (await agent.workers()).workers if w.name == agent.name)


async def _say(agent: Agent, header: str, value: str) -> None:
    async with httpx2.AsyncClient(base_url=agent.http, trust_env=False, timeout=LIVENESS_LIMIT) as http:
        response = await http.get("/v1/load", params={"service": "embed"}, headers={header: value})
        assert response.status_code == 200


async def _until_asked_twice(workers: list[MisbehavingWorker]) -> None:
    """The first probe of each worker came at its start."""
    with trio.fail_after(LIVENESS_LIMIT):
        while any(sum(b"POST" in request for request in worker.requests) < 2 for worker in workers):
            await trio.sleep(0.05)
