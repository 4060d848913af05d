"""Every route over a real socket: what it answers, how it refuses, and what the refusal tells the caller to do."""

from __future__ import annotations

import pytest
from members import member
from serving import PROCESS, THREE, WALL_OFFSET, pool, serving

from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Event, MemberDetail
from rumormill.ring.routing import Routing
from rumormill.ring.worker import RoutingPolicy


async def test_workers_of_a_service_with_index_process_and_etag():
    async with serving(pool(*THREE.members, member("c1", service="chat"))) as endpoint:
        got = await endpoint.get("/v1/workers?service=embed")
        assert got.status == 200
        assert [worker["name"] for worker in got.json["workers"]] == ["w1", "w2", "w3"]
        assert got.headers["x-rumormill-index"] == "1"
        assert got.headers["x-rumormill-process"] == PROCESS
        assert got.headers["etag"].startswith('W/"')
        everyone = await endpoint.get("/v1/workers")
        assert (everyone.json["service"], len(everyone.json["workers"])) == ("", 4)


async def test_ready_holds_only_those_that_take_work():
    views = pool(member("w1"), member("w2", readiness=Readiness.DRAINING))
    async with serving(views) as endpoint:
        ready = await endpoint.get("/v1/workers?service=embed&ready=true")
        every = await endpoint.get("/v1/workers?service=embed&ready=false")
        assert [worker["name"] for worker in ready.json["workers"]] == ["w1"]
        assert [worker["name"] for worker in every.json["workers"]] == ["w1", "w2"]
        assert ready.json["routing_digest"] == every.json["routing_digest"]


@pytest.mark.parametrize("path", ["/v1/workers", "/v1/pool", "/v1/events", "/openapi.json", "/"])
async def test_an_unchanged_answer_is_a_304(path):
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            tag = (await caller.get(path)).headers["etag"]
            for asked in (tag, f'"else", {tag}', tag.removeprefix("W/"), "*"):
                got = await caller.get(path, If_None_Match=asked)
                assert (got.status, got.body, got.headers["etag"]) == (304, b"", tag)
            assert (await caller.get(path, If_None_Match='W/"else"')).status == 200


async def test_a_change_makes_the_etag_stale():
    async with serving() as endpoint:
        tag = (await endpoint.get("/v1/workers")).headers["etag"]
        endpoint.publish(pool(member("w1")))
        assert (await endpoint.get("/v1/workers", If_None_Match=tag)).status == 200


@pytest.mark.parametrize("path", ["/v1/workers", "/v1/lookup?key=a", "/v1/members", "/livez", "/", "/nowhere"])
async def test_head_is_get_without_the_body(path):
    async with serving() as endpoint:
        caller = await endpoint.caller()
        async with caller.stream:
            head, got = await caller.ask("HEAD", path), await caller.get(path)
            assert head.body == b""
            assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
            assert head.status == got.status


@pytest.mark.parametrize("count", [1, 3, 5, 8])
async def test_lookup_tells_the_owners_that_are_heard_in_ring_order_and_then_the_suspects(count: int):
    views = pool(*(member(f"w{n}", liveness=Liveness(n % 2)) for n in range(8)))
    async with serving(views) as endpoint:
        workers = (await endpoint.get("/v1/workers?service=embed")).json
        got = (await endpoint.get(f"/v1/lookup?service=embed&key=user%2042&n={count}")).json
        assert got["key"] == "user 42"
        assert got["routing_digest"] == workers["routing_digest"]
        view = endpoint.server._api.view.service("embed")
        owners = Routing("embed", view.workers, RoutingPolicy()).owners("user 42")
        tried = [owner.name for word in ("alive", "suspect") for owner in owners if owner.liveness == word]
        assert [owner["name"] for owner in got["owners"]] == tried[:count]
        assert got["owners"][0] == next(w for w in workers["workers"] if w["name"] == tried[0])
        assert len((await endpoint.get("/v1/lookup?key=a")).json["owners"]) == 3


async def test_lookup_names_no_suspect_first_while_anybody_is_heard_and_no_digest_moves():
    async with serving(pool(*(member(f"w{n}") for n in range(4)))) as endpoint:
        before = [(await endpoint.get(f"/v1/lookup?key={key}&n=4")).json for key in range(60)]
        suspects = pool(member("w0"), *(member(f"w{n}", liveness=Liveness.SUSPECT) for n in range(1, 4)))
        endpoint.publish(suspects)
        after = [(await endpoint.get(f"/v1/lookup?key={key}&n=4")).json for key in range(60)]
        assert {answer["owners"][0]["name"] for answer in after} == {"w0"}
        assert {answer["routing_digest"] for answer in after} == {before[0]["routing_digest"]}
        rest = [[owner["name"] for owner in answer["owners"] if owner["name"] != "w0"] for answer in before]
        assert [[owner["name"] for owner in answer["owners"][1:]] for answer in after] == rest


async def test_lookup_shows_a_suspicion_though_the_ring_stays():
    async with serving(pool(member("w1"))) as endpoint:
        before = (await endpoint.get("/v1/lookup?key=a")).json
        endpoint.publish(pool(member("w1", liveness=Liveness.SUSPECT)))
        after = (await endpoint.get("/v1/lookup?key=a")).json
        assert (before["owners"][0]["liveness"], after["owners"][0]["liveness"]) == ("alive", "suspect")
        assert before["routing_digest"] == after["routing_digest"]


async def test_lookup_in_a_large_pool_builds_its_ring_once_for_all_who_ask():
    async with serving(pool(*(member(f"w{n:03}") for n in range(100)))) as endpoint:
        caller, other = await endpoint.caller(), await endpoint.caller()
        async with caller.stream, other.stream:
            request = b"GET /v1/lookup?service=embed&key=a HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await caller.send(request)
            await other.send(request)
            first, second = await caller.read_answer(), await other.read_answer()
        assert first.body == second.body
        assert len(first.json["owners"]) == 3


async def test_while_a_large_ring_is_built_others_are_answered_from_the_former_one():
    many = [member(f"w{n:04}") for n in range(1200)]
    async with serving(pool(*many[:600])) as endpoint:
        path = "/v1/lookup?service=embed&key=a&n=3"
        former = (await endpoint.get(path)).json
        endpoint.publish(pool(*(one for one in many if one.name != former["owners"][0]["name"])))
        builder, other = await endpoint.caller(), await endpoint.caller()
        async with builder.stream, other.stream:
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            await builder.send(request)
            await other.send(request)
            new, meanwhile = sorted(
                ((await builder.read_answer()).json, (await other.read_answer()).json),
                key=lambda got: got["routing_digest"] == former["routing_digest"],
            )
        assert new["routing_digest"] != former["routing_digest"] == meanwhile["routing_digest"]
        names = [owner["name"] for owner in meanwhile["owners"]]
        assert len(names) == 3, "who has gone since is left out, and others stand in"
        assert names[:2] == [owner["name"] for owner in former["owners"][1:]], "in the order there was"
        assert (await endpoint.get(path)).json == new


async def test_lookup_asks_which_service_where_there_are_several():
    async with serving(pool(member("w1"), member("c1", service="chat"))) as endpoint:
        got = await endpoint.get("/v1/lookup?key=a")
        assert got.status == 400
        assert "chat, embed" in got.json["hint"]


@pytest.mark.parametrize("route", ["/v1/lookup?key=a&", "/v1/explain?key=a&", "/v1/ring?"])
async def test_a_service_that_nobody_has_is_not_found_and_those_there_are_are_named(route):
    async with serving(pool(member("w1"), member("c1", service="chat"))) as endpoint:
        got = await endpoint.get(f"{route}service=embedd")
        assert (got.status, got.headers["content-type"]) == (404, "application/problem+json")
        assert "'embedd'" in got.json["detail"]
        assert got.json["hint"] == "there are chat, embed"


async def test_a_service_whose_workers_take_no_work_or_have_gone_has_no_owners():
    path = "/v1/lookup?service=embed&key=a"
    async with serving(pool(member("w1", readiness=Readiness.CRITICAL))) as endpoint:
        assert (await endpoint.get(path)).json["owners"] == []
        endpoint.publish(pool(member("w1", liveness=Liveness.DEAD), member("c1", service="chat")))
        got = await endpoint.get(path)
        assert (got.status, got.json["owners"]) == (200, [])
    async with serving(pool()) as endpoint:
        got = await endpoint.get(path)
        assert (got.status, got.json["hint"]) == (404, "no service has a worker here yet")


async def test_members_are_all_with_what_an_operator_asks_for():
    dead = member("w2", liveness=Liveness.DEAD, why="3 misses seen by w1, w3", address=("::1", 7947))
    async with serving(pool(member("w1"), dead)) as endpoint:
        endpoint.sidecar.known = {dead.instance: MemberDetail(3, True, ("w1", "w3"), 1.5, 0.002)}
        rows = (await endpoint.get("/v1/members")).json["members"]
        assert [row["liveness"] for row in rows] == ["alive", "dead"]
        assert (rows[1]["misses"], rows[1]["monitors"], rows[1]["last_heard"]) == (3, ["w1", "w3"], 1.5)
        assert (rows[1]["why"], rows[1]["address"], rows[1]["routable"]) == (
            "3 misses seen by w1, w3",
            "[::1]:7947",
            False,
        )
        assert rows[0]["last_heard"] is None


async def test_pool_counts_capacity_and_failures_to_spare():
    async with serving(pool(member("w1"), member("w2", weight=500))) as endpoint:
        got = (await endpoint.get("/v1/pool?service=embed")).json
        assert (got["capacity"], got["failures_to_spare"], got["mean_utilization"]) == (1.5, 1, None)


async def test_a_weight_of_0_takes_a_worker_out_of_all_answers_about_traffic_and_back():
    async with serving(pool(member("w1"), member("w2"))) as endpoint:

        async def seen() -> tuple[list[str], float, list[str]]:
            ready = (await endpoint.get("/v1/workers?service=embed&ready=true")).json["workers"]
            capacity = (await endpoint.get("/v1/pool?service=embed")).json["capacity"]
            owners = (await endpoint.get("/v1/lookup?service=embed&key=k")).json["owners"]
            return [one["name"] for one in ready], capacity, sorted(one["name"] for one in owners)

        both = (["w1", "w2"], 2.0, ["w1", "w2"])
        assert await seen() == both
        endpoint.publish(pool(member("w1"), member("w2", weight=0)))
        assert await seen() == (["w1"], 1.0, ["w1"])
        endpoint.publish(pool(member("w1", weight=0), member("w2", weight=0)))
        assert await seen() == ([], 0.0, [])
        assert len((await endpoint.get("/v1/workers?service=embed")).json["workers"]) == 2
        endpoint.publish(pool(member("w1"), member("w2")))
        assert await seen() == both


async def test_events_are_numbered_bounded_and_newest_last():
    async with serving() as endpoint:
        endpoint.server.publish_events([Event(float(n), "evicted", f"w{n}", f"w{n} evicted") for n in range(1, 1201)])
        every = (await endpoint.get("/v1/events")).json
        assert (every["index"], len(every["events"]), every["process"]) == (1200, 1000, PROCESS)
        assert [every["events"][0]["index"], every["events"][-1]["index"]] == [201, 1200]
        assert every["events"][-1]["text"] == "w1200 evicted"
        assert every["events"][-1]["at"] == "2023-11-14T22:33:20.000Z"
        assert WALL_OFFSET + 1200 == 1_700_001_200
        since = (await endpoint.get("/v1/events?since=1198")).json["events"]
        assert [event["index"] for event in since] == [1199, 1200]
        assert (await endpoint.get("/v1/events?since=1200")).json["events"] == []
        assert len((await endpoint.get("/v1/events?since=7&process=other")).json["events"]) == 1000
        assert len((await endpoint.get("/v1/events?since=5000")).json["events"]) == 1000


async def test_status_is_the_sidecars_own_word_and_follows_its_commands():
    async with serving() as endpoint:
        assert (await endpoint.get("/v1/status")).json["settings"]["period"] == 0.2
        assert (await endpoint.ask("PUT", "/v1/drain")).json == {"draining": True}
        assert (await endpoint.get("/v1/status")).json["draining"] is True
        assert (await endpoint.ask("DELETE", "/v1/drain")).json == {"draining": False}
        left = await endpoint.ask("POST", "/v1/leave")
        assert (left.status, left.json) == (202, {"leaving": True})
        assert endpoint.sidecar.told == ["drain", "undrain", "leave"]
        too_late = await endpoint.ask("DELETE", "/v1/drain")
        assert (too_late.status, too_late.json["hint"]) == (409, "start it again after it has left")


async def test_health_routes():
    async with serving() as endpoint:
        assert (await endpoint.get("/livez")).status == 200
        assert (await endpoint.get("/healthz?verbose")).json == {"ok": True, "why": ""}
        assert (await endpoint.get("/readyz")).status == 200
        endpoint.sidecar.reason = "the worker is draining"
        unready = await endpoint.get("/readyz")
        assert (unready.status, unready.json) == (503, {"ok": False, "why": "the worker is draining"})
        assert (await endpoint.get("/livez")).status == 200
        assert (await endpoint.get("/worker/livez")).status == 200, "no new work, and no restart"
        endpoint.sidecar.restart = "the worker has made no progress for 181 s: stalled"
        restart = await endpoint.get("/worker/livez")
        assert (restart.status, restart.json["why"]) == (503, endpoint.sidecar.restart)


async def test_the_root_lists_the_routes():
    async with serving() as endpoint:
        listed = {(row["method"], row["path"]) for row in (await endpoint.get("/")).json["routes"]}
        assert {("GET", "/v1/workers"), ("DELETE", "/v1/drain"), ("GET", "/openapi.json")} <= listed


async def test_before_the_first_view_there_is_no_answer_to_give():
    async with serving(None) as endpoint:
        got = await endpoint.get("/v1/workers")
        assert (got.status, got.headers["retry-after"]) == (503, "1")
        assert (await endpoint.get("/livez")).status == 200
        endpoint.publish(THREE)
        assert (await endpoint.get("/v1/workers")).json["index"] == 1


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("/v1/wrokers", 404, "did you mean /v1/workers?"),
        ("/zzzzzzzz", 404, "/openapi.json"),
        ("/v1/workers?sevice=embed", 400, "did you mean 'service'?"),
        ("/v1/workers?service=a&service=b", 400, "once"),
        ("/v1/workers?index=one", 400, "index='one'"),
        ("/v1/workers?index=-1", 400, "index='-1'"),
        ("/v1/workers?wait=soon", 400, "500ms, 10s or 5m"),
        ("/v1/workers?index=null", 400, "index='null'"),
        ("/v1/workers?ready=perhaps", 400, "ready='perhaps'"),
        ("/v1/workers?service", 400, "name=value"),
        ("/v1/workers?service=%ff", 400, "percent-encoded"),
        ("/v1/workers?service=" + "a" * 129, 400, "service="),
        ("/v1/lookup", 400, "add key="),
        ("/v1/lookup?key=a&n=129", 400, "n='129'"),
        ("/v1/lookup?key=a&n=0", 400, "n='0'"),
        ("/v1/status?x=1", 400, "it takes no parameters"),
        ("/v1/events?" + "&".join(f"a{n}=1" for n in range(20)), 400, "name=value"),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_what_to_do(target, status, said):
    async with serving() as endpoint:
        got = await endpoint.get(target)
        assert (got.status, got.headers["content-type"]) == (status, "application/problem+json")
        assert got.json["status"] == status
        assert said in f"{got.json['detail']} {got.json['hint']}"


async def test_a_method_a_path_does_not_answer():
    async with serving() as endpoint:
        got = await endpoint.ask("POST", "/v1/drain")
        assert (got.status, got.headers["allow"]) == (405, "GET, HEAD, PUT, DELETE")
        assert (await endpoint.ask("PUT", "/v1/workers")).headers["allow"] == "GET, HEAD"
        assert (await endpoint.ask("HEAD", "/v1/leave")).status == 405
        assert endpoint.sidecar.told == []


async def test_a_bug_in_one_answer_is_a_500_and_the_next_one_is_served():
    async with serving() as endpoint:
        endpoint.sidecar.broken = True
        caller = await endpoint.caller()
        async with caller.stream:
            got = await caller.get("/v1/members")
            assert (got.status, got.json["detail"]) == (500, "this sidecar has a bug")
            assert (await caller.get("/v1/workers")).status == 200


async def test_a_real_client_keeps_its_connection():
    async with serving() as endpoint:
        for _ in range(5):
            assert (await endpoint.client.get("/v1/workers")).status_code == 200
        assert endpoint.server.counters["connections"] == 1
