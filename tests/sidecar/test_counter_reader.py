"""The page with the counters is read on one connection while it lasts, and on another when it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from rumormill.sidecar.counters import BadCounters
from rumormill.sidecar.counters.counter_reader import CounterReader
from rumormill.sidecar.engines import ENGINES
from rumormill.sidecar.health.plan import counter_source
from rumormill.sidecar.settings_values import WorkerUrl

PAGE = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\nllamacpp:n_decode_total %d\n"


class Engine:
    """Answers so many requests on each connection. Its pages count what was asked."""

    def __init__(self, requests_each: int) -> None:
        self.requests_each = requests_each
        self.connections = 0
        self.paths: list[bytes] = []
        self.props = b'{"total_slots": 4}'

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        for _ in range(self.requests_each):
            request = b""
            while b"\r\n\r\n" not in request:
                data = await stream.receive_some(4096)
                if not data:
                    return
                request += data
            self.paths.append(request.split()[1])
            body = self.props if self.paths[-1] == b"/props" else PAGE % len(self.paths)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@asynccontextmanager
async def reading(engine: Engine, capacity: int | None = None) -> AsyncIterator[CounterReader]:
    reader = CounterReader()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, engine.serve, 0, host="127.0.0.1"))
        url = WorkerUrl(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        reader.configure(counter_source(url, ENGINES["llama.cpp"], capacity=capacity))
        yield reader
        reader.close()
        nursery.cancel_scope.cancel()


async def test_one_connection_serves_all_readings_and_the_capacity_is_asked_once() -> None:
    engine = Engine(requests_each=1000)
    async with reading(engine) as reader:
        progress = [(await reader.read()).progress for _ in range(5)]
        assert engine.connections == 1
        assert progress == sorted(set(progress))
        assert engine.paths.count(b"/props") == 1
        assert reader.latest is not None
        assert reader.latest.capacity == 4


@pytest.mark.parametrize("requests_each", [1, 2, 3])
async def test_a_connection_that_the_engine_has_closed_is_replaced_within_the_same_reading(requests_each: int) -> None:
    engine = Engine(requests_each)
    async with reading(engine, capacity=8) as reader:
        for _ in range(7):
            assert (await reader.read()).running == 1
        assert engine.connections == -(-7 // requests_each)
        assert reader.latest is not None
        assert reader.latest.capacity == 8, "what the settings say wins, and nothing is asked"
        assert b"/props" not in engine.paths


@pytest.mark.parametrize("props", [b"", b"[]", b"ok", b'{"total_slots": -1}', b'{"total_slots": true}', b"{}", b"\xff"])
async def test_a_capacity_that_makes_no_sense_is_not_known(props: bytes) -> None:
    engine = Engine(requests_each=1000)
    engine.props = props
    async with reading(engine) as reader:
        await reader.read()
        assert reader.latest is not None
        assert reader.latest.capacity is None


async def test_an_engine_that_is_gone_is_an_error_with_its_address() -> None:
    async with reading(Engine(requests_each=1)) as reader:
        await reader.read()
    with pytest.raises(BadCounters, match=r"nothing listens on 127\.0\.0\.1"):
        await reader.read()
