"""A drain ends with the worker's last request, as callers report it, wherever they ask."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import trio
from agents import Agent, all_routable, gone, has, rumormill
from limits import LIVENESS_LIMIT

from rumormill.client import Pool

VLLM_PAGE = b"""vllm:num_requests_running{engine="0"} %d
vllm:num_requests_waiting{engine="0"} 0
vllm:kv_cache_usage_perc{engine="0"} 0.125
vllm:generation_tokens_total{engine="0"} %d
"""


class Streams:
    """A worker whose requests take until the test ends them."""

    def __init__(self) -> None:
        self.url = ""
        self.under_way = self.asked = 0
        self.began = trio.Event()
        self.may_end = trio.Event()

    async def serve(self, nursery: trio.Nursery) -> Streams:
        listeners = await nursery.start(partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1"))
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        return self

    async def _serve(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (data := await stream.receive_some(4096)):
            request += data
        if b"/stream" in request:
            self.under_way += 1
            self.began.set()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nto")
            await self.may_end.wait()
            await stream.send_all(b"ld")
            self.under_way -= 1
        elif request:
            self.asked += 1
            body = VLLM_PAGE % (self.under_way, self.asked) if b"/metrics" in request else b"ok"
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@asynccontextmanager
async def two_workers(drain_time: str = "3s") -> AsyncIterator[tuple[list[Agent], list[Streams], trio.Nursery]]:
    """Two sidecars, each with a worker of its own."""
    flags = ("--drain-time", drain_time, "--drain-deadline", "1000s")
    async with trio.open_nursery() as nursery:
        workers = [await Streams().serve(nursery) for _ in range(2)]
        w1 = await Agent.start(nursery, "w1", workers[0].url, *flags)
        w2 = await Agent.start(nursery, "w2", workers[1].url, "--join", w1.gossip, *flags)
        for agent in (w1, w2):
            await agent.until(all_routable("w1", "w2"))
        yield [w1, w2], workers, nursery
        nursery.cancel_scope.cancel()


async def until_under_way(agent: Agent, count: int) -> None:
    """Wait until the agent knows of so many requests at its worker."""
    with trio.fail_after(LIVENESS_LIMIT):
        while (await agent.ask("/v1/drain"))["under_way"] != count:
            await trio.sleep(0.05)


async def stream_at(pool: Pool, name: str, answers: list[bytes]) -> None:
    key = next(f"k{n}" for n in range(1000) if pool.owners(f"k{n}", 1)[0].name == name)
    async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=None) as http:
        answers.append((await http.get("/stream", headers={"Rumormill-Key": key})).content)


async def test_drain_waits_for_a_stream_that_only_a_caller_of_another_sidecar_reports():
    async with two_workers() as ([w1, w2], [_, worker], _), Pool([w1.http], "embed") as pool:
        answers: list[bytes] = []
        waited: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream_at, pool, "w2", answers)
            await worker.began.wait()

            async def drain() -> None:
                done = await rumormill("drain", "--wait", "--http", w2.http)
                waited.append(worker.under_way)
                assert done.returncode == 0, done.stderr
                assert "Drained after" in done.stdout
                assert "counted by its callers" in done.stdout

            nursery.start_soon(drain)
            await until_under_way(w2, 1)
            assert not waited
            worker.may_end.set()
        assert (answers, waited) == ([b"told"], [0])


async def test_a_deadline_ends_the_wait_and_not_the_drain():
    async with (
        two_workers() as ([w1, w2], [_, worker], _),
        Pool([w1.http], "embed") as pool,
        trio.open_nursery() as callers,
    ):
        callers.start_soon(stream_at, pool, "w2", [])
        await worker.began.wait()
        await w2.ask("/v1/drain", "PUT")
        await until_under_way(w2, 1)
        done = await rumormill("drain", "--wait", "--deadline", "300ms", "--http", w2.http)
        assert done.returncode == 9
        assert "1 request(s) under way" in done.stdout
        assert has("w2", readiness="draining")(await w1.workers())
        worker.may_end.set()


async def test_sigterm_waits_for_what_callers_report_and_no_longer():
    """Callers report once a second, and the worker has ten seconds even if nobody reports."""
    async with two_workers("10s") as ([w1, w2], [_, worker], nursery), Pool([w1.http], "embed") as pool:
        answers: list[bytes] = []
        nursery.start_soon(stream_at, pool, "w2", answers)
        await worker.began.wait()
        w2.signal(signal.SIGTERM)
        await until_under_way(w2, 1)
        assert has("w2", readiness="draining")(await w1.workers())
        assert w2.process.returncode is None
        worker.may_end.set()
        assert await w2.ended() == 0
        await w1.until(gone("w2"))
        assert answers == [b"told"]


async def test_an_engines_own_count_is_the_pools_load_and_ends_the_drain():
    """Nobody reports here: the request comes from a caller that is no client of ours. The time set is no matter."""
    async with trio.open_nursery() as nursery:
        worker, other = [await Streams().serve(nursery) for _ in range(2)]
        w1 = await Agent.start(nursery, "w1", other.url)
        flags = ("--engine", "vllm", "--probe", "none", "--worker-capacity", "2", "--drain-time", "1000s")
        w2 = await Agent.start(nursery, "w2", worker.url, "--join", w1.gossip, *flags)
        await w1.until(all_routable("w1", "w2"))
        async with httpx2.AsyncClient(timeout=LIVENESS_LIMIT) as http, trio.open_nursery() as callers:
            callers.start_soon(http.get, f"{worker.url}/stream")
            await worker.began.wait()
            with trio.fail_after(LIVENESS_LIMIT):
                while not (loads := (await w1.ask("/v1/load"))["loads"]) or loads[0]["utilization"] < 0.45:
                    await trio.sleep(0.05)
            assert [load["name"] for load in loads] == ["w2"]
            known = {w["name"]: w["utilization"] for w in (await w1.ask("/v1/workers"))["workers"]}
            assert known["w1"] is None
            assert 0.45 <= known["w2"] <= 0.5
            assert (await w1.ask("/v1/pool"))["known_utilizations"] == 1
            await w2.ask("/v1/drain", "PUT")
            with trio.fail_after(LIVENESS_LIMIT):
                while (state := await w2.ask("/v1/drain"))["source"] != "engine":
                    await trio.sleep(0.05)
            assert (state["under_way"], state["drained"]) == (1, False)
            worker.may_end.set()
            done = await rumormill("drain", "--wait", "--http", w2.http)
            assert done.returncode == 0
            assert "counted by its engine" in done.stdout
        nursery.cancel_scope.cancel()
