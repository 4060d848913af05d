"""A plan that a live pool fills in: its capacity as the engines state it, and what they do now."""

from __future__ import annotations

import json

import trio
from agents import Agent, all_routable, rumormill
from faulty_pool import llama_page
from limits import LIVENESS_LIMIT
from misbehaving_worker import MisbehavingWorker

FLAGS = ("--engine", "llama.cpp", "--stall-time", "5m", "--restart-after", "10m")
"""The counters of these workers stand still."""


async def test_the_plan_of_a_pool_that_is_half_full() -> None:
    async with trio.open_nursery() as nursery:
        workers = [await MisbehavingWorker.start(nursery) for _ in range(2)]
        for worker in workers:
            worker.metrics = llama_page(decoded=7, running=2, waiting=0)
            worker.slots = 4
        w1 = await Agent.start(nursery, "w1", workers[0].url, *FLAGS)
        w2 = await Agent.start(nursery, "w2", workers[1].url, "--join", w1.gossip, *FLAGS)
        for agent in (w1, w2):
            await agent.until(all_routable("w1", "w2"))
        with trio.fail_after(LIVENESS_LIMIT):
            while (await w2.ask("/v1/pool?service=embed"))["mean_utilization"] != 0.5:
                await trio.sleep(0.1)
        done = await rumormill(
            "plan", "--from", w2.http, "--service", "embed", "--per-worker", "50", "--failures", "2", "-o", "json"
        )
        made = json.loads(done.stdout)
        assert (made["peak"], made["needed"], made["workers"]) == (50.0, 1, 3)
        shown = await rumormill("plan", "--from", w2.http, "--failures", "2")
        assert "N = ceil(1 / 1) = 1 workers for the peak" in shown.stdout
        nursery.cancel_scope.cancel()


async def test_a_pool_that_does_not_know_its_load_makes_no_plan() -> None:
    async with trio.open_nursery() as nursery:
        worker = await MisbehavingWorker.start(nursery)
        agent = await Agent.start(nursery, "w1", worker.url)
        await agent.until(all_routable("w1"))
        done = await rumormill("plan", "--from", agent.http)
        assert done.returncode == 2
        assert "set --engine at the sidecars" in done.stderr
        nursery.cancel_scope.cancel()
