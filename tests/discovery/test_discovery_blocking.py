"""Callers that wait: a change, a time limit, a disconnect or the endpoint's end wakes queries and streams."""

from __future__ import annotations

import pytest
import trio
from limits import LIVENESS_LIMIT
from members import member
from serving import PROCESS, THREE, Stream, pool, serving, until

from rumormill.discovery.http.limits import Limits
from rumormill.membership.record import Liveness
from rumormill.membership.view import Event

TWO = pool(member("w1"), member("w2"))
BLOCKED = f"/v1/workers?service=embed&index=1&process={PROCESS}&wait=5m"


def request(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def test_a_blocked_query_is_answered_by_the_change():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(request(BLOCKED))
            await until(lambda: endpoint.server.waiting == 1)
            endpoint.publish(TWO)
            got = await caller.read_answer()
            assert (got.json["index"], len(got.json["workers"])) == (2, 2)
            assert endpoint.server.waiting == 0


async def test_a_change_of_another_service_wakes_nobody():
    async with serving() as endpoint:
        caller, everything = await endpoint.caller(), await endpoint.caller()
        async with caller.stream, everything.stream:
            await caller.send(request(BLOCKED))
            await everything.send(request("/v1/workers?index=1&wait=5m"))
            await until(lambda: endpoint.server.waiting == 2)
            endpoint.publish(pool(*THREE.members, member("c1", service="chat")))
            assert len((await everything.read_answer()).json["workers"]) == 4
            assert endpoint.server.waiting == 1


async def test_a_first_worker_wakes_who_waits_for_its_service():
    async with serving() as endpoint:
        index = (await endpoint.get("/v1/workers?service=chat")).json["index"]
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(request(f"/v1/workers?service=chat&index={index}&wait=5m"))
            await until(lambda: endpoint.server.waiting == 1)
            endpoint.publish(pool(*THREE.members, member("c1", service="chat")))
            assert [worker["name"] for worker in (await caller.read_answer()).json["workers"]] == ["c1"]


@pytest.mark.parametrize(
    "query", ["index=0", "wait=5m", "index=1&wait=0s", "index=1&process=other&wait=0s", "process=other"]
)
async def test_what_has_nothing_to_wait_for_is_answered_at_once(query):
    async with serving() as endpoint:
        got = await endpoint.get(f"/v1/workers?service=embed&{query}")
        assert (got.status, got.json["index"]) == (200, 1)


ELSEWHERE = [
    "workers?service=embed&index=1&process=other",
    "workers?service=embed&index=2",
    "events?since=7&process=other",
]


@pytest.mark.parametrize("query", ELSEWHERE)
async def test_an_index_that_was_not_counted_here_is_held_for_a_moment(query):
    async with serving() as endpoint:
        begin = trio.current_time()
        got = await endpoint.get(f"/v1/{query}&wait=5m")
        assert trio.current_time() - begin >= Limits().moment / 2
        assert got.status == 200


@pytest.mark.parametrize("query", ELSEWHERE)
async def test_a_change_within_that_moment_is_told_at_once(query):
    async with serving(limits=Limits(moment=1e6)) as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(request(f"/v1/{query}&wait=5m"))
            await until(lambda: endpoint.server.waiting == 1)
            endpoint.publish(TWO)
            endpoint.server.publish_events([Event(1.0, "evicted", "w3", "w3 evicted")])
            assert (await caller.read_answer()).status == 200


async def test_a_wait_ends_with_the_same_answer_and_never_early():
    async with serving() as endpoint:
        begin = trio.current_time()
        got = await endpoint.get("/v1/workers?service=embed&index=1&wait=200ms")
        took = trio.current_time() - begin
        assert (got.status, got.json["index"]) == (200, 1)
        assert took >= 0.2
        tag = got.headers["etag"]
        again = await endpoint.get("/v1/workers?service=embed&index=1&wait=1ms", If_None_Match=tag)
        assert again.status == 304


async def test_a_caller_that_hangs_up_is_forgotten_at_once():
    async with serving() as endpoint:
        callers = [await endpoint.caller() for _ in range(5)]
        for caller in callers[:3]:
            await caller.send(request(BLOCKED))
        for caller in callers[3:]:
            await caller.send(request("/v1/watch"))
        await until(lambda: endpoint.server.waiting == 5)
        for caller in callers:
            await caller.stream.aclose()
        await until(lambda: endpoint.server.waiting == 0 and endpoint.server.connections == 0)


async def test_what_happened_while_nobody_was_connected_counts_as_one_change_or_as_none():
    async with serving() as endpoint:
        tag = (await endpoint.get("/v1/workers?service=embed")).headers["etag"]
        await until(lambda: endpoint.server.connections == 0)
        for view in (TWO, pool(), THREE):
            endpoint.publish(view)
        assert (await endpoint.get("/v1/workers?service=embed", If_None_Match=tag)).status == 304
        await until(lambda: endpoint.server.connections == 0)
        for view in (pool(), THREE, TWO):
            endpoint.publish(view)
        got = await endpoint.get("/v1/workers?service=embed", If_None_Match=tag)
        assert (got.json["index"], [worker["name"] for worker in got.json["workers"]]) == (2, ["w1", "w2"])


async def test_a_request_pipelined_behind_a_blocked_one_waits_its_turn():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(request(BLOCKED))
            await until(lambda: endpoint.server.waiting == 1)
            await caller.send(request("/livez"))
            endpoint.publish(TWO)
            assert (await caller.read_answer()).json["index"] == 2
            caller.next_cycle()
            assert (await caller.read_answer()).json == {"ok": True, "why": ""}


async def test_closing_answers_blocked_queries_and_ends_streams():
    async with serving() as endpoint:
        blocked, streaming, idle = [await endpoint.caller() for _ in range(3)]
        async with blocked.stream, streaming.stream, idle.stream:
            assert (await idle.get("/livez")).status == 200
            stream = Stream(streaming)
            await stream.open()
            await blocked.send(request(BLOCKED))
            await until(lambda: endpoint.server.waiting == 2)
            endpoint.server.close()
            with trio.fail_after(LIVENESS_LIMIT):  # and not the five minutes of the query
                got = await blocked.read_answer()
                assert (got.status, got.headers["connection"]) == (200, "close")
                assert await blocked.read_to_end() == await idle.read_to_end() == b""
                assert [(await stream.next())[0] for _ in range(2)] == ["retry", "snapshot"]
                with pytest.raises(EOFError):
                    await stream.next()
            with pytest.raises(OSError, match="connect"):
                await endpoint.caller()


async def test_cancelling_ends_everything_at_once():
    async with serving() as endpoint:
        server = endpoint.server
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            other = type(server)(commands=endpoint.sidecar, process="p2", wall_offset=0.0)
            other.pool_changed()
            await nursery.start(other.serve, listeners)
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(request("/v1/workers?index=1&wait=5m"))
                await until(lambda: other.waiting == 1)
                nursery.cancel_scope.cancel()
        assert (other.waiting, other.connections) == (0, 0)


async def test_events_can_be_waited_for():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            await caller.send(request("/v1/events?since=0&wait=5m"))
            await until(lambda: endpoint.server.waiting == 1)
            endpoint.server.publish_events([Event(1.0, "joined", "w4", "w4 joined")])
            assert [event["text"] for event in (await caller.read_answer()).json["events"]] == ["w4 joined"]


async def test_a_stream_begins_with_a_snapshot_and_goes_on_with_changes():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            stream = Stream(caller)
            head = await stream.open()
            assert b"Content-Type: text/event-stream" in head
            assert await stream.next() == ("retry", "", "1000")
            kind, index, data = await stream.next()
            assert (kind, index, len(data["workers"]), data["policy"]["index"]) == ("snapshot", "1", 3, 0)
            endpoint.publish(TWO)
            kind, index, data = await stream.next()
            assert (kind, index, data["index"], len(data["workers"])) == ("change", "2", 2, 2)
            suspect = pool(member("w1", liveness=Liveness.SUSPECT), member("w2"))
            endpoint.publish(suspect)
            kind, index, suspected = await stream.next()
            assert (kind, index) == ("change", "3")
            assert suspected["routing_digest"] == data["routing_digest"]


async def test_a_silent_stream_is_kept_alive():
    async with serving(limits=Limits(keep_alive=0.05)) as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            stream = Stream(caller)
            await stream.open()
            got = [await stream.next() for _ in range(4)]
            assert [kind for kind, _, _ in got] == ["retry", "snapshot", ":", ":"]


async def test_a_view_is_made_for_nobody_and_in_a_storm_now_and_then():
    made = weight = 0
    crowd = [member(f"w{n:04}") for n in range(2000)]
    async with serving() as endpoint:

        def view():
            nonlocal made
            made += 1
            return pool(*crowd[1:], member("w0000", weight=weight))

        endpoint.sidecar.view = view
        for _ in range(100):
            endpoint.server.pool_changed()
        assert made == 0
        caller = await endpoint.caller()
        async with caller.stream:
            for _ in range(200):
                weight += 1
                endpoint.server.pool_changed()
                assert (await caller.get("/livez")).status == 200
            await until(lambda: not endpoint.server._view_outdated)
            assert 1 <= made < 50
            workers = (await caller.get("/v1/workers?service=embed")).json["workers"]
        assert [worker["weight"] for worker in workers if worker["name"] == "w0000"] == [0.2]


async def test_a_slow_watcher_gets_the_newest_and_holds_nothing_up():
    large = {"tags": {"note": "x" * 500}}
    crowd = [member(f"w{n:04}", **large) for n in range(2000)]
    async with serving(pool(*crowd)) as endpoint:
        slow = await endpoint.caller()
        async with slow.stream:
            stream = Stream(slow)
            await stream.open()
            for weight in range(1, 41):
                endpoint.publish(pool(*crowd[1:], member("w0000", weight=weight)), at_once=False)
                assert (await endpoint.get("/livez")).status == 200
            await until(lambda: endpoint.server._api.view.index("embed") >= 2 and not endpoint.server._view_outdated)
            final = endpoint.server._api.view.index("embed")
            seen = []
            while not seen or seen[-1] != final:
                kind, _, data = await stream.next()
                if kind != "retry":
                    seen.append(data["index"])
            assert len(seen) < 20
            assert seen == sorted(set(seen))


async def test_thousands_of_blocked_queries_are_told_and_the_loop_is_given_back_meanwhile():
    count = 1000
    async with serving() as endpoint:
        callers = [await endpoint.caller() for _ in range(count)]
        for caller in callers:
            await caller.send(request(BLOCKED))
        await until(lambda: endpoint.server.waiting == count)
        endpoint.publish(TWO)
        answered = 0
        async with trio.open_nursery() as nursery:

            async def finish(caller):
                nonlocal answered
                assert (await caller.read_answer()).json["index"] == 2
                answered += 1
                await caller.stream.aclose()

            for caller in callers:
                nursery.start_soon(finish, caller)
        assert answered == count
