"""Full garbage collections wait until few callers are connected, and a closed connection leaves nothing for them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from serving import Serving, serving, until

from rumormill.discovery.http.limits import Limits
from rumormill.sidecar.garbage import FEW_CALLERS, INTERVAL, collect_with_few_callers, hold_full_collections

CALLERS = 50
REQUESTS = {
    "silent": b"",
    "answered": b"GET /v1/workers HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "blocked": b"GET /v1/workers?index=1&wait=60s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a head": b"GET /v1/workers HTTP/1.1\r\nHo",
    "refused": b"GET / HTTP/9.9\r\n\r\n",
}


@pytest.fixture
def held() -> Iterator[None]:
    before = gc.get_threshold()
    gc.collect()
    hold_full_collections()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("held")
async def test_full_collections_wait_for_few_callers(autojump_clock: trio.testing.MockClock) -> None:
    full: list[str] = []
    callers = FEW_CALLERS

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            full.append(phase)

    def make_garbage() -> None:
        for _ in range(20_000):
            cycle: list[object] = []
            cycle.append(cycle)
        for _ in range(20):
            gc.collect(1)

    gc.callbacks.append(note)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect_with_few_callers, lambda: callers)
            make_garbage()
            await trio.sleep(3 * INTERVAL)
            assert full == []
            callers = FEW_CALLERS - 1
            await trio.sleep(1.5 * INTERVAL)
            assert full == ["start"]
            await trio.sleep(3 * INTERVAL)
            assert full == ["start"], "there is nothing to collect"
            nursery.cancel_scope.cancel()
    finally:
        gc.callbacks.remove(note)


@pytest.mark.parametrize("sent", REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_closed_connection_leaves_no_garbage(sent: bytes) -> None:
    async with serving(limits=Limits(settle=0.0, linger=0.01)) as endpoint:
        await come_and_go(endpoint, sent)  # what is made once is no garbage of a connection
        gc.disable()
        try:
            gc.collect()
            await come_and_go(endpoint, sent)
            assert gc.collect() < CALLERS
        finally:
            gc.enable()


async def come_and_go(endpoint: Serving, sent: bytes) -> None:
    before = endpoint.server.counters["connections"]
    callers = [await trio.open_tcp_stream("127.0.0.1", endpoint.port) for _ in range(CALLERS)]
    for caller in callers:
        await caller.send_all(sent)
    await until(lambda: endpoint.server.counters["connections"] == before + CALLERS)
    for caller in callers:
        await caller.aclose()
    await until(lambda: endpoint.server.connections == 0)
    await trio.testing.wait_all_tasks_blocked()
