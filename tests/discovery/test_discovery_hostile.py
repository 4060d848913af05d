"""Hostile and faulty callers: each costs a bounded amount, gets a reason, and disturbs no other caller."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from limits import LIVENESS_LIMIT
from members import member
from serving import PROCESS, Serving, pool, serving, until
from structlog.testing import capture_logs

from rumormill.discovery.http.connection_slots import ConnectionSlots
from rumormill.discovery.http.limits import Limits, SlotLimits
from rumormill.discovery.http.request import LargeBodies, RequestReader
from rumormill.discovery.http.response import RequestRejected

GOOD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def is_well(endpoint: Serving) -> bool:
    return (await endpoint.get("/v1/workers?service=embed")).status == 200


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", 501, "this method is not known"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "http://"),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "two Host"),
        (b"GET /livez HTTP/7.3\r\nHost: localhost\r\n\r\n", 400, "version"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "target"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20000, 431, "head"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "headers"),
        (b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413, "body"),
        (b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999999\r\n\r\n", 413, "body"),
        (
            b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
            400,
            "Content-Length",
        ),
        (b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400, "Content-Length"),
        (
            b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "Transfer-Encoding",
        ),
        (b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "chunk"),
        (
            b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"4000\r\n" + b"a" * 0x4000 + b"\r\n") * 5,
            413,
            "body",
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: b\r\n\r\n", 400, ""),
        (b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, ""),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
async def test_what_cannot_be_served_is_refused_in_words(sent, status, said):
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(sent)
            got = await caller.read_answer()
            assert (got.status, got.headers["content-type"]) == (status, "application/problem+json")
            assert said in f"{got.json['detail']} {got.json['hint']}"
        assert endpoint.sidecar.told == []
        assert await is_well(endpoint)


async def test_good_requests_before_a_bad_one_are_answered_first():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(GOOD + GOOD + b"nonsense\r\n\r\n")
            statuses = []
            for _ in range(3):
                statuses.append((await caller.read_answer()).status)
                if statuses[-1] == 200:
                    caller.next_cycle()
            assert statuses == [200, 200, 501]
            assert await caller.read_to_end() == b""


async def test_many_pipelined_requests_are_answered_in_order():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        keys = [f"k{n}" for n in range(500)]
        requests = b"".join(
            f"GET /v1/lookup?service=embed&key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for key in keys
        )
        async with caller.stream, trio.open_nursery() as nursery:
            nursery.start_soon(caller.send, requests)
            for key in keys:
                assert (await caller.read_answer()).json["key"] == key
                caller.next_cycle()


async def test_a_request_may_come_one_byte_at_a_time():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            for position in range(len(GOOD)):
                await caller.send(GOOD[position : position + 1])
            assert (await caller.read_answer()).status == 200


async def test_a_body_is_read_over_and_the_connection_goes_on():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello" + GOOD)
            assert (await caller.read_answer()).json == {"draining": True}
            caller.next_cycle()
            assert (await caller.read_answer()).status == 200


async def test_a_caller_that_holds_its_body_back_is_told_to_go_on():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(
                b"PUT /v1/drain HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
            )
            assert (await caller.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await caller.send(b"ok")
            assert (await caller.read_answer()).status == 200


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.0\r\n", False),
        (b"HTTP/1.0\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1\r\nHost: localhost\r\n", True),
        (b"HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", False),
        (b"HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n", False),
    ],
)
async def test_who_closes(head, kept):
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(b"GET /livez " + head + b"\r\n")
            got = await caller.read_answer()
            assert got.status == 200
            assert ("close" not in got.headers.get("connection", "")) == kept
            if not kept:
                assert await caller.read_to_end() == b""


async def test_slowloris_is_cut_off_however_it_drips():
    async with serving(limits=Limits(head_timeout=1, sweep=0.05)) as endpoint:
        caller, silent = await endpoint.caller(), await endpoint.caller()
        async with caller.stream, silent.stream:
            await caller.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
            begin = trio.current_time()
            got = b""
            async with trio.open_nursery() as nursery:

                async def drip() -> None:
                    while True:
                        await caller.send(b"X: y\r\n")
                        await trio.sleep(0.02)

                nursery.start_soon(drip)
                while b"408 Request Timeout" not in got:
                    got += await caller.stream.receive_some()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - begin >= 1 - 0.5
            assert await silent.read_to_end() == b""
        await until(lambda: endpoint.server.connections == 0)
        assert await is_well(endpoint)


async def test_who_comes_after_a_silence_is_swept_like_the_first():
    async with serving(limits=Limits(head_timeout=0.1, sweep=0.05)) as endpoint:
        for _ in range(3):
            caller = await endpoint.caller()
            async with caller.stream:
                with trio.fail_after(LIVENESS_LIMIT):
                    assert await caller.read_to_end() == b""
            await until(lambda: endpoint.server.connections == 0)
            await trio.testing.wait_all_tasks_blocked(0.06)  # the sweeper too is asleep for good


async def test_an_idle_connection_is_closed_and_a_waiting_one_is_not():
    async with serving(limits=Limits(idle_timeout=0.2, head_timeout=20, sweep=0.05)) as endpoint:
        idle, waiting = await endpoint.caller(), await endpoint.caller()
        async with idle.stream, waiting.stream:
            await waiting.send(
                f"GET /v1/workers?index=1&process={PROCESS}&wait=1m HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            assert (await idle.get("/livez")).status == 200
            assert await idle.read_to_end() == b""
            assert endpoint.server.waiting == 1
            endpoint.publish(pool(member("w1")))
            assert (await waiting.read_answer()).json["index"] == 2


async def test_a_caller_that_never_reads_is_cut_off():
    crowd = pool(*(member(f"w{n:04}", tags={"note": "x" * 500}) for n in range(2000)))
    async with serving(crowd, limits=Limits(write_timeout=0.2, sweep=0.05)) as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            with trio.move_on_after(10):
                await caller.send(b"GET /v1/workers HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            await until(lambda: endpoint.server.counters["connections_overdue"] == 1)
        await until(lambda: endpoint.server.connections == 0)
        assert await is_well(endpoint)


async def test_beyond_the_limit_the_longest_idle_makes_room():
    async with serving(limits=Limits(connections=3)) as endpoint:
        callers = [await endpoint.caller() for _ in range(3)]
        for caller in callers:
            assert (await caller.get("/livez")).status == 200
        assert (await callers[0].get("/livez")).status == 200
        assert await is_well(endpoint)
        assert await callers[1].read_to_end() == b""
        assert (await callers[0].get("/livez")).status == 200
        assert endpoint.server.counters["connections_displaced"] == 1
        for caller in callers:
            await caller.stream.aclose()


async def test_beyond_the_limit_with_all_at_work_the_newcomer_is_turned_away():
    crowd = pool(*(member(f"w{n:04}", tags={"note": "x" * 500}) for n in range(2000)))
    async with serving(crowd, limits=Limits(connections=3)) as endpoint:
        callers = [await endpoint.caller() for _ in range(3)]
        for caller in callers:  # more than the kernel buffers, and nobody reads
            await caller.send(b"GET /v1/workers HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        await until(lambda: endpoint.server.counters["requests"] >= 3 and not endpoint.server._state.idle)
        newcomer = await endpoint.caller()
        async with newcomer.stream:
            await newcomer.send(GOOD)  # unread, it must not reset the answer away
            got = await newcomer.read_answer()
            assert (got.status, got.headers["retry-after"]) == (503, "1")
            assert await newcomer.read_to_end() == b""
        for caller in callers:
            await trio.aclose_forcefully(caller.stream)
        await until(lambda: endpoint.server.connections == 0)
        assert await is_well(endpoint)
        assert endpoint.server.counters["connections_refused"] == 1


@pytest.mark.parametrize("target", ["/v1/workers?index=1&wait=5m", "/v1/events?wait=5m", "/v1/watch"])
async def test_callers_that_wait_leave_places_for_those_that_want_little(target):
    async with serving(limits=Limits(connections=8)) as endpoint:
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        callers = [await endpoint.caller() for _ in range(6)]
        for caller in callers:
            await caller.send(request)
        await until(lambda: endpoint.server.waiting == 6)
        refused = await endpoint.get(target)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        for route in ("/livez", "/readyz", "/v1/members", "/v1/status", "/metrics"):
            assert (await endpoint.get(route)).status == 200
        assert (await endpoint.ask("PUT", "/v1/drain")).status == 200
        assert endpoint.server.counters["waits_refused"] == 1
        await callers[0].stream.aclose()
        await until(lambda: endpoint.server.waiting == 5)
        await (await endpoint.caller()).send(request)
        await until(lambda: endpoint.server.waiting == 6)


@pytest.mark.parametrize("files", [16, 64, 256, 1024, 20_000, 1_000_000])
def test_however_few_descriptors_there_are_some_serve_and_some_are_kept(files):
    places = SlotLimits.within(files, 14, Limits())
    assert 1 <= places.waiting < places.connections <= 8192
    assert places.rejections >= 1
    if files >= 64:
        assert 14 + places.connections + places.rejections + 8 <= files
        assert places.connections - places.waiting >= 8


def test_overload_is_counted_each_time_and_logged_once_a_minute():
    counters = Counter()
    capacity = ConnectionSlots(SlotLimits(4, 1, 1), counters)
    with capture_logs() as lines, capacity.wait(0.0):
        for second in range(61):
            with pytest.raises(RequestRejected), capacity.wait(float(second)):
                pass
    assert (counters["waits_refused"], [line["refused"] for line in lines]) == (61, [1, 60])
    assert capacity.waiting == 0


async def test_a_saturated_endpoint_gives_the_loop_back():
    """200 callers ask without pause. Another task still runs after a few batches."""
    async with serving(limits=Limits(batch=8)) as endpoint:
        callers = [await endpoint.caller() for _ in range(200)]
        for caller in callers:
            await caller.send(GOOD * 20)
        answered = endpoint.server.counters
        largest, last = 0, answered["requests"]
        while answered["requests"] < 200 * 20:
            await trio.lowlevel.checkpoint()
            now = answered["requests"]
            largest, last = max(largest, now - last), now
        assert largest <= 3 * 8
        for caller in callers:
            await caller.stream.aclose()


def envoy_request(length: int, *, whole: bool) -> bytes:
    head = b"POST /v3/discovery:endpoints HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length
    return head + b" " * (length if whole else 1)


def test_only_so_many_large_bodies_of_envoy_are_under_way_at_once():
    limits = Limits(large_bodies=2)
    large = LargeBodies(limits.large_bodies)
    readers = [RequestReader(limits, large) for _ in range(3)]
    for reader in readers:
        reader.feed_untrusted(envoy_request(limits.body + 1, whole=False))
    assert [reader.refusal and reader.refusal.status for reader in readers] == [None, None, 503]
    for reader in readers:
        reader.close()
    after = RequestReader(limits, large)
    for _ in range(3):
        (request,) = after.feed_untrusted(envoy_request(limits.body + 1, whole=True))
        assert len(request.body) == limits.body + 1
    after.feed_untrusted(envoy_request(limits.large_body + 1, whole=False))
    assert after.refusal is not None
    assert after.refusal.status == 413


async def test_a_refusal_is_strict_http_even_for_an_old_caller():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(b"GET /nowhere HTTP/1.0\r\n\r\n")
            got = await caller.read_answer()
            assert (got.status, got.headers["connection"]) == (404, "close")
            assert await caller.read_to_end() == b""
