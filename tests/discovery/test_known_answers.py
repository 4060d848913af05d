"""Who sends the same bytes again gets the same answer without parsing, and a new one once anything has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from members import member
from serving import THREE, Caller, Serving, pool, serving, until

from rumormill.discovery.http.access import Access
from rumormill.discovery.http.connection_slots import OVERLOADED
from rumormill.discovery.http.known_answers import MAX_KNOWN, MAX_REQUEST, KnownAnswer, KnownAnswers
from rumormill.discovery.http.limits import Limits
from rumormill.membership.load import MemberLoad
from rumormill.membership.view import Connectivity

WORKERS = "/v1/workers?service=embed"
FORMATS = [
    ("GET", WORKERS, b""),
    ("GET", "/v1/workers?service=embed&ready=true&format=text", b""),
    ("HEAD", WORKERS, b""),
    ("GET", "/v1/pool?service=embed", b""),
    ("GET", "/v1/health/service/embed?passing", b""),
    ("GET", "/v1/catalog/services", b""),
    ("GET", "/v1/prometheus/targets", b""),
    ("GET", "/v1/traefik", b""),
    ("POST", "/v3/discovery:endpoints", b'{"node":{"id":"front"},"resource_names":["embed"]}'),
]


def answers_made(endpoint: Serving) -> list[str]:
    """The targets of the requests that are parsed and answered anew from now on, as they come."""
    state, made = endpoint.server._state, []
    respond = state.respond

    async def count(request: Any, stream: Any) -> Any:
        made.append(request.target.decode())
        return await respond(request, stream)

    state.respond = count
    return made


async def send_for_ever(caller: Caller, request: bytes) -> None:
    while True:
        await caller.send(request)
        await trio.sleep(0)


@pytest.mark.parametrize(("method", "target", "body"), FORMATS, ids=[f"{method} {path}" for method, path, _ in FORMATS])
async def test_the_same_request_is_answered_once_per_change(method, target, body):
    w1, w2, w3 = (member(f"w{number}", url=f"http://10.0.0.{number}:9001") for number in (1, 2, 3))
    async with serving(pool(w1, w2, w3)) as endpoint:
        made = answers_made(endpoint)
        caller, other = await endpoint.caller(), await endpoint.caller()
        first = await caller.ask(method, target, body)
        for each in (caller, other, caller):
            again = await each.ask(method, target, body)
            assert (again.status, again.body) == (first.status, first.body)
            assert again.headers | {"date": ""} == first.headers | {"date": ""}
        assert made == [target]
        endpoint.publish(pool(w1, replace(w3, weight=500)))
        for each in (caller, other):
            fresh = await each.ask(method, target, body)
            assert fresh.body != first.body or fresh.headers.get("x-rumormill-index") == "2"
        assert made == [target, target]


async def test_a_304_is_known_until_the_tag_is_old():
    async with serving() as endpoint:
        made = answers_made(endpoint)
        caller = await endpoint.caller()
        tag = (await caller.get(WORKERS)).headers["etag"]
        assert [(await caller.get(WORKERS, If_None_Match=tag)).status for _ in range(3)] == [304] * 3
        assert len(made) == 2
        endpoint.publish(pool(member("w1")))
        assert (await caller.get(WORKERS, If_None_Match=tag)).status == 200


async def test_a_new_load_is_shown():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        assert [w["utilization"] for w in (await caller.get(WORKERS)).json["workers"]] == [None] * 3
        endpoint.sidecar.activity.known = {member("w1").instance: MemberLoad(0.5, 0, 100.0)}
        endpoint.server._api.refresh_loads()
        assert (await caller.get(WORKERS)).json["workers"][0]["utilization"] == 0.5


async def test_what_is_no_view_of_the_pool_is_asked_anew_each_time():
    async with serving() as endpoint:
        made = answers_made(endpoint)
        caller = await endpoint.caller()
        for _ in range(3):
            assert (await caller.get("/readyz")).status == 200
        endpoint.sidecar.reason = "the worker is out"
        assert (await caller.get("/readyz")).status == 503
        assert len(made) == 4


async def test_a_wait_is_never_answered_from_memory():
    async with serving() as endpoint:
        made = answers_made(endpoint)
        caller = await endpoint.caller()
        target = f"{WORKERS}&index=1&wait=10ms"
        for _ in range(2):
            await caller.get(target)
        assert made == [target, target]


async def test_a_token_that_is_taken_back_opens_nothing():
    async with serving(access=Access(read_token="old", local=False)) as endpoint:
        caller = await endpoint.caller()
        for _ in range(2):
            assert (await caller.get(WORKERS, Authorization="Bearer old")).status == 200
        assert (await caller.get(WORKERS)).status == 401
        endpoint.server.set_access(Access(read_token="new", local=False))
        assert (await caller.get(WORKERS, Authorization="Bearer old")).status == 401
        assert (await caller.get(WORKERS, Authorization="Bearer new")).status == 200


async def test_known_answers_are_counted_like_all_others():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        for _ in range(5):
            await caller.get(WORKERS)
        assert endpoint.server.counters["requests"] == 5
        assert endpoint.server._state.metrics.counts["/v1/workers", 200] == 5
        assert sum(endpoint.server._state.metrics.durations["/v1/workers"].counts) == 5


async def test_a_caller_that_does_not_read_gets_every_answer_whole_or_is_cut_off():
    """Its buffers fill up with known answers in the middle of one; the rest follows when it reads."""
    many = pool(*(member(f"w{number:03}", tags={"note": "x" * 100}) for number in range(200)))
    request = f"GET {WORKERS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with serving(many) as endpoint:
        caller = await endpoint.caller()
        size = len((await caller.get(WORKERS)).body)
        asked = 0
        state = endpoint.server._state
        while not any(connection._unsent for connection in state.connections):
            await caller.send(request)
            asked += 1
            await until(lambda asked=asked: state.counters["requests"] > asked)
        for _ in range(asked):
            answer = await caller.read_answer()
            assert len(answer.body) == size
            caller.next_cycle()
        assert (await caller.get("/livez")).status == 200

    async with serving(many, limits=Limits(settle=0.0, write_timeout=0.05, sweep=0.02)) as endpoint:
        caller = await endpoint.caller()
        await caller.get(WORKERS)
        with pytest.raises((trio.BrokenResourceError, ConnectionError)):
            await send_for_ever(caller, request)


async def test_a_stopping_endpoint_answers_and_closes():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        for _ in range(2):
            await caller.get(WORKERS)
        endpoint.server._state.closing = True
        assert (await caller.get(WORKERS)).headers["connection"] == "close"


def test_made_up_requests_take_bounded_memory():
    known = KnownAnswers()
    entry = KnownAnswer("/v1/workers", OVERLOADED.full())
    assert known.get(b"x", 1) is None
    for number in range(3 * MAX_KNOWN):
        known.add(b"request %d" % number, entry, 1)
    known.add(b"x" * (MAX_REQUEST + 1), entry, 1)
    assert known.get(b"x" * (MAX_REQUEST + 1), 1) is None
    assert 0 < len(known._by_request) <= MAX_KNOWN
    known.add(b"made before the change", entry, 0)
    assert known.get(b"made before the change", 1) is None
    assert known.get(b"request %d" % (3 * MAX_KNOWN - 1), 1) == entry
    assert known.get(b"request %d" % (3 * MAX_KNOWN - 1), 2) is None


async def test_isolation_is_told_at_once():
    async with serving() as endpoint:
        caller = await endpoint.caller()
        for _ in range(2):
            assert "x-rumormill-connectivity" not in (await caller.get(WORKERS)).headers
        endpoint.publish(replace(THREE, connectivity=Connectivity.ISOLATED))
        assert (await caller.get(WORKERS)).headers["x-rumormill-connectivity"] == "isolated"
