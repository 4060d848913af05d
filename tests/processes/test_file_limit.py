"""Agents under a limit of open files: the soft one is raised, and a low hard one leaves places for what matters."""

from __future__ import annotations

import resource
from pathlib import Path

import httpx2
import trio
from agents import Agent, Worker
from limits import LIVENESS_LIMIT

FEW = 64


async def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, before=("sh", "-c", f'ulimit -Sn {FEW}; exec "$@"', "sh"))
        assert resource.prlimit(w1.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        nursery.cancel_scope.cancel()


async def test_with_64_files_blocked_queries_keep_out_neither_health_nor_operators() -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, before=("sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh"))
        await w1.until(lambda answer: any(one.routable for one in answer.workers))
        known = await w1.workers("embed")
        blocked = {"service": "embed", "index": known.index, "process": known.process, "wait": "5m"}
        refused: list[tuple[int, str | None]] = []
        no_place_left = trio.Event()

        async def block() -> None:
            while True:
                try:
                    response = await client.get("/v1/workers", params=blocked)
                    break
                except httpx2.TransportError:  # so slow to ask that its place was given to the next
                    continue
            refused.append((response.status_code, response.headers.get("retry-after")))
            if len(refused) == FEW // 4:
                no_place_left.set()

        everyone = httpx2.Limits(max_connections=None)
        async with (
            httpx2.AsyncClient(base_url=w1.http, timeout=None, trust_env=False, limits=everyone) as client,
            trio.open_nursery() as callers,
        ):
            for _ in range(FEW):
                callers.start_soon(block)
            with trio.fail_after(LIVENESS_LIMIT):
                await no_place_left.wait()
            assert set(refused) == {(503, "1")}
            for path in ("/livez", "/healthz", "/readyz"):
                assert (await w1.ask(path))["ok"]
            assert [one["name"] for one in (await w1.ask("/v1/members"))["members"]] == ["w1"]
            counters = (await w1.ask("/v1/status"))["counters"]
            assert counters["http_waits_refused"] >= FEW // 4
            assert not counters.get("http_accepts_failed")
            assert (await w1.logged("overloaded"))["waiting"] >= FEW // 4
            assert await w1.ask("/v1/drain", "PUT") == {"draining": True}
            assert len(list(Path(f"/proc/{w1.process.pid}/fd").iterdir())) < FEW
            callers.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
