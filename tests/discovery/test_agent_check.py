"""HAProxy's agent check: one line for a name, for no name, and nothing while the pool is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from limits import LIVENESS_LIMIT
from members import member
from serving import PROCESS, pool

from rumormill.discovery.formats import haproxy
from rumormill.discovery.listeners.agent_check import MAX_CALLERS, AgentCheckServer
from rumormill.discovery.schema.policy_bodies import CanaryPolicy, Share, encode_body
from rumormill.discovery.view import RoutingView
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import PoolView

EVERYONE = pool(
    member("w1"),
    member("w2", weight=500),
    member("w3", liveness=Liveness.SUSPECT),
    member("w4", readiness=Readiness.DRAINING),
    member("w5", readiness=Readiness.CRITICAL),
    member("w6", weight=1),
    member("w7", weight=0),
)


def view_of(shown: PoolView) -> RoutingView:
    view = RoutingView(process=PROCESS, wall_offset=0.0)
    view.update(shown)
    return view


@asynccontextmanager
async def checks(view: RoutingView | None) -> AsyncIterator[tuple[int, Counter[str]]]:
    counters: Counter[str] = Counter()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(LIVENESS_LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(AgentCheckServer(lambda: view, counters, 64).serve, listeners)
            yield listeners[0].socket.getsockname()[1], counters
            nursery.cancel_scope.cancel()


async def ask(port: int, sent: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(sent)
        got = b""
        while data := await stream.receive_some(1024):
            got += data
        return got


async def test_each_worker_by_its_name():
    async with checks(view_of(EVERYONE)) as (port, counters):
        got = {name: await ask(port, f"{name}\n".encode()) for name in ("w1", "w2", "w3", "w4", "w5", "w6", "w7", "x")}
        assert got == {
            "w1": b"up ready 10000%\n",
            "w2": b"up ready 5000%\n",
            "w3": b"up ready 100%\n",
            "w4": b"up drain\n",
            "w5": b"down #its worker is critical\n",
            "w6": b"up ready 100%\n",
            "w7": b"up drain\n",
            "x": b"down #not in the pool\n",
        }
        assert counters["haproxy_checks_answered"] == 8


async def test_who_sends_nothing_asks_about_this_sidecars_own_worker():
    async with checks(view_of(EVERYONE)) as (port, _):
        assert await ask(port, b"") == b"up ready 10000%\n"


async def test_nobody_is_answered_before_the_pool_is_known():
    async with checks(None) as (port, counters):
        assert await ask(port, b"w1\n") == b""
        assert counters["haproxy_checks_unanswered"] == 1


def test_a_canary_weighs_its_share_and_no_answer_is_below_100_percent():
    share = PolicyRecord("embed", 1, "w1", 0, encode_body(CanaryPolicy([Share("v2", 2000)])))
    view = view_of(pool(member("w1"), member("w2", release="v2"), policies=(share,)))
    assert view.service("embed").derived(haproxy.answers) == {"w1": b"up ready 16000%\n", "w2": b"up ready 4000%\n"}
    heavy = view_of(pool(member("w1", weight=10**6), member("w2")))
    assert heavy.service("embed").derived(haproxy.answers) == {"w1": b"up ready 25600%\n", "w2": b"up ready 100%\n"}


async def test_a_flood_of_silent_callers_keeps_nobody_out():
    async with checks(view_of(EVERYONE)) as (port, _):
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_CALLERS + 50)]
        for stream in silent:
            await stream.send_all(b"w")
        assert await ask(port, b"w1\n") == b"up ready 10000%\n"
        for stream in silent:
            await trio.aclose_forcefully(stream)
