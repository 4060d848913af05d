"""Load in the answers: shown at once, moving no index; with the headroom that it leaves, and what callers report."""

from __future__ import annotations

import pytest
from members import member
from serving import PROCESS, Serving, pool, serving, until

from rumormill.discovery.activity import (
    MAX_DOUBTS,
    MAX_REPORTED,
    MAX_REPORTED_WORKERS,
    WorkerRequests,
    parse_report_untrusted,
)
from rumormill.discovery.headroom import HOLD_SECONDS, ScaleOutSignal, headroom
from rumormill.discovery.schema.load import DrainState
from rumormill.discovery.view import RoutingView
from rumormill.membership.load import MemberLoad
from rumormill.membership.record import InstanceId, Liveness, Readiness

THREE = pool(member("w1"), member("w2"), member("w3", service="chat"))
ONE_ID = b"w1------"


def loads(**busy: float) -> dict[InstanceId, MemberLoad]:
    return {InstanceId(name.encode().ljust(16, b"-")): MemberLoad(u, 3, 99.0) for name, u in busy.items()}


def state(endpoint: Serving, **busy: float) -> None:
    """The sidecar's members state these loads, and the endpoint looks at them."""
    endpoint.sidecar.activity.known = loads(**busy)
    endpoint.server._api.refresh_loads()


async def test_a_load_shows_in_the_answers_and_moves_no_index_and_no_tag():
    async with serving(THREE) as endpoint:
        before = await endpoint.get("/v1/workers?service=embed")
        state(endpoint, w1=0.5, w3=0.25)
        after = await endpoint.get("/v1/workers?service=embed")
        assert (after.headers["etag"], after.json["index"]) == (before.headers["etag"], before.json["index"])
        assert after.json["routing_digest"] == before.json["routing_digest"]
        assert [(w["utilization"], w["queue"]) for w in before.json["workers"]] == [(None, None)] * 2
        assert [(w["utilization"], w["queue"]) for w in after.json["workers"]] == [(0.5, 3), (None, None)]
        assert [w["load_at"] for w in after.json["workers"]] == ["2023-11-14T22:14:59.000Z", ""]
        state(endpoint)
        gone = await endpoint.get("/v1/workers?service=embed")
        assert [w["utilization"] for w in gone.json["workers"]] == [None, None]


async def test_a_query_for_loads_blocks_until_one_changes_and_tells_their_age():
    async with serving(THREE) as endpoint:
        first = (await endpoint.get("/v1/load?service=embed")).json
        assert (first["loads"], first["process"]) == ([], PROCESS)
        caller = await endpoint.caller()
        async with caller.stream:
            target = f"/v1/load?service=embed&index={first['index']}&process={PROCESS}&wait=5m"
            await caller.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await until(lambda: endpoint.server.waiting == 1)
            state(endpoint, w2=0.75)
            got = (await caller.read_answer()).json
        assert got["index"] == first["index"] + 1
        assert [(r["name"], r["utilization"], r["queue"], r["age"]) for r in got["loads"]] == [("w2", 0.75, 3, 1.0)]


async def test_the_pool_tells_mean_worst_and_how_many_may_fail():
    async with serving(pool(member("w1", weight=2000), member("w2"), member("w3"))) as endpoint:
        state(endpoint, w1=0.6, w2=0.3)
        got = (await endpoint.get("/v1/pool?service=embed")).json
        assert (got["mean_utilization"], got["worst_utilization"], got["known_utilizations"]) == (0.5, 0.6, 2)
        assert (got["may_fail"], got["scale_out"]) == (1, False)


async def test_a_callers_report_is_taken_from_the_query_it_holds_anyway():
    async with serving(THREE) as endpoint:
        header = {"Rumormill-Requests": f"00112233aabbccdd;{ONE_ID.hex()}=3/17"}
        await endpoint.get("/v1/load?service=embed", **header)
        await endpoint.get("/v1/load?service=embed", **{"Rumormill-Requests": "nonsense"})
        assert [(r.caller, r.workers) for r in endpoint.sidecar.activity.reports] == [
            ("00112233aabbccdd", {ONE_ID: WorkerRequests(3, 17)})
        ]


async def test_a_callers_doubts_are_taken_from_the_same_query_and_bounded():
    async with serving(THREE) as endpoint:
        ids = [bytes((number,)) * 8 for number in range(MAX_DOUBTS + 1)]
        told = ",".join(one.hex() for one in ids)
        for value in (told[:-17], told, ids[0].hex() + ",", "w1", ids[0].hex().upper() + "FF"):
            await endpoint.get("/v1/load?service=embed", **{"Rumormill-Doubts": value})
        assert endpoint.sidecar.activity.doubts == ids[:-1], "one too many is no list of doubts"


async def test_the_drain_route_tells_how_far_it_is():
    async with serving(THREE) as endpoint:
        endpoint.sidecar.activity.drain = DrainState(True, False, 4, "engine", 2.5, 0.0)
        got = (await endpoint.get("/v1/drain")).json
        assert (got["draining"], got["drained"], got["under_way"], got["source"]) == (True, False, 4, "engine")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "abc",
        "00112233aabbccdd",
        "00112233AABBCCDD;",
        "00112233aabbccdd;xx=1/1",
        f"00112233aabbccdd;{'0' * 16}=-1/1",
        f"00112233aabbccdd;{'0' * 16}=1",
        f"00112233aabbccdd;{'0' * 16}=1/1;",
        f"00112233aabbccdd;{'0' * 16}=1/{'9' * 16}",
    ],
)
def test_what_is_no_report_is_ignored(value: str) -> None:
    assert parse_report_untrusted(value.encode()) is None


def test_a_report_is_bounded() -> None:
    many = ",".join(f"{number:016x}=999999999/5" for number in range(200))
    report = parse_report_untrusted(f"00112233aabbccdd;{many}".encode())
    assert report is not None
    assert len(report.workers) == MAX_REPORTED_WORKERS
    assert {requests.under_way for requests in report.workers.values()} == {MAX_REPORTED}
    nothing = parse_report_untrusted(b"00112233aabbccdd;")
    assert nothing is not None
    assert nothing.workers == {}


def view(*members, **busy):
    routing = RoutingView(process=PROCESS, wall_offset=0.0)
    routing.update(pool(*members))
    routing.set_loads(loads(**busy), 0.0)
    return routing.service("embed").workers


@pytest.mark.parametrize(
    ("utilizations", "may_fail"),
    [((0.2, 0.2, 0.2, 0.2), 3), ((0.5, 0.5, 0.5, 0.5), 2), ((0.6, 0.6, 0.6, 0.6), 1), ((0.9, 0.9, 0.9, 0.9), 0)],
)
def test_workers_may_fail_until_the_rest_is_full(utilizations, may_fail) -> None:
    names = [f"w{number}" for number in range(4)]
    room = headroom(view(*map(member, names), **dict(zip(names, utilizations, strict=True))))
    assert room.may_fail == may_fail


def test_suspects_are_never_spare_and_unknown_is_neither_full_nor_idle() -> None:
    names = ["w0", "w1", "w2", "w3"]
    half = dict.fromkeys(names, 0.5)
    assert headroom(view(*map(member, names), **half)).may_fail == 2
    doubtful = [member("w0", liveness=Liveness.SUSPECT), *map(member, names[1:])]
    assert headroom(view(*doubtful, **half)).may_fail == 1
    room = headroom(view(*map(member, names), w0=0.5))
    assert (room.mean, room.known, room.may_fail) == (0.5, 1, 2)
    draining = [member("w0", readiness=Readiness.DRAINING), *map(member, names[1:])]
    assert headroom(view(*draining, **half)).may_fail == 1
    assert headroom(view(*map(member, names))) == headroom(())


def test_more_workers_are_asked_for_only_after_a_while_and_until_it_is_clearly_over() -> None:
    signal = ScaleOutSignal()
    assert not signal.update(None, 0.0)
    signal.update(0.7, 1.0)
    assert signal.wanted is False
    signal.update(0.55, 10.0)  # a dip begins the wait anew
    signal.update(0.7, 11.0)
    signal.update(0.7, 11.0 + HOLD_SECONDS - 0.1)
    assert signal.wanted is False
    assert signal.update(0.7, 11.0 + HOLD_SECONDS)
    assert signal.wanted is True
    signal.update(0.55, 100.0)
    signal.update(0.55, 200.0)
    assert signal.wanted is True, "between the two bounds nothing changes"
    signal.update(0.4, 201.0)
    assert signal.update(0.4, 201.0 + HOLD_SECONDS)
    assert signal.wanted is False
    assert signal.update(None, 300.0)
    assert signal.wanted is None
