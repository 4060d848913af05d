"""Callers behind something that gives each query to another sidecar, as a Service's address does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import trio
from agents import Agent, pool
from limits import LIVENESS_LIMIT

from rumormill.client import Pool

WATCHED = 3.0
"""Seconds."""
FEW = 10
"""Queries a second: four, and what changes meanwhile. Without a bound there were 74."""


class Relay:
    """Gives each request to the next of these endpoints, and counts them."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._next = itertools.cycle(endpoints)
        self.asked = 0
        self.broken = 0
        self.url = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := await stream.receive_some(4096)):
                return
            head += data
        self.asked += 1
        address = httpx2.URL(next(self._next))
        behind = await trio.open_tcp_stream(address.host, address.port or 0)
        async with behind, trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, stream, nursery.cancel_scope)
            await behind.send_all(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            async for data in behind:
                await stream.send_all(data)
            nursery.cancel_scope.cancel()

    async def _cancel_when_gone(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        while await stream.receive_some(4096):
            continue
        scope.cancel()

    async def quietly(self, stream: trio.SocketStream) -> None:
        try:
            await self.serve(stream)
        except* (OSError, trio.BrokenResourceError):
            self.broken += 1  # a sidecar or a caller has gone


@asynccontextmanager
async def relay(agents: Sequence[Agent]) -> AsyncIterator[Relay]:
    between = Relay([agent.http for agent in agents])
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, between.quietly, 0, host="127.0.0.1"))
        between.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield between
        nursery.cancel_scope.cancel()


async def test_a_caller_of_two_sidecars_in_turn_asks_a_few_times_a_second() -> None:
    async with pool(2) as (agents, _), relay(agents) as between:
        async with httpx2.AsyncClient(base_url=between.url, timeout=LIVENESS_LIMIT, trust_env=False) as client:
            params = {"service": "embed", "wait": "10s"}
            began = trio.current_time()
            with trio.move_on_after(WATCHED):
                while True:
                    answer = (await client.get("/v1/workers", params=params)).json()
                    params |= {"index": answer["index"], "process": answer["process"]}
        assert between.asked <= FEW * (trio.current_time() - began)


async def test_a_pool_behind_one_address_of_two_sidecars_asks_a_few_times_a_second_and_sees_a_death() -> None:
    async with pool(3) as (agents, _), relay(agents[:2]) as between, Pool(between.url, "embed") as client:
        before, began = between.asked, trio.current_time()
        await trio.sleep(WATCHED)
        assert between.asked - before <= FEW * (trio.current_time() - began)
        agents[2].process.kill()
        with trio.fail_after(LIVENESS_LIMIT):
            while any(worker.name == "w3" for worker in client.workers):
                await client.changed(client.topology)
