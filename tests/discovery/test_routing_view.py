"""The routing view without a server: what changes the index, what changes the digest, and what changes neither."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import member
from serving import PROCESS, THREE, WALL_OFFSET, pool

from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.discovery.service_view import Representation
from rumormill.discovery.view import MAX_EMPTY_SERVICES, RoutingView
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Connectivity, PoolView


def view_of(*views: PoolView) -> RoutingView:
    view = RoutingView(process=PROCESS, wall_offset=WALL_OFFSET)
    for each in views:
        view.update(each)
    return view


def answer(view: RoutingView, service: str = "embed", form: Representation = Representation.WORKERS) -> WorkersAnswer:
    return msgspec.json.decode(view.service(service).response(form).body, type=WorkersAnswer)


def change_w3(**changes: Any) -> PoolView:
    return pool(*(replace(one, **changes) if one.name == "w3" else one for one in THREE.members))


def test_an_answer_says_who_is_there():
    got = answer(view_of(THREE))
    assert (got.cluster, got.service, got.index, got.process) == ("prod", "embed", 1, PROCESS)
    assert [worker.name for worker in got.workers] == ["w1", "w2", "w3"]
    first = got.workers[0]
    assert (first.weight, first.liveness, first.readiness, first.utilization) == (1.0, "alive", "passing", None)
    assert first.since == "2023-11-14T22:15:00.000Z"
    assert len(got.routing_digest) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"readiness": Readiness.DRAINING},
        {"weight": 500},
        {"url": "http://elsewhere:1"},
        {"liveness": Liveness.SUSPECT},
        {"liveness": Liveness.DEAD},
        {"generation": 2},
        {"tags": {"gpu": "a100"}},
        {"service": "chat"},
        {"pending": True},
        {"address": ("127.0.0.2", 1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_an_answer_holds_moves_the_index_by_one(changes):
    view = view_of(THREE, change_w3(**changes))
    assert (view.index("embed"), view.index("")) == (2, 2)
    assert (
        view_of(THREE).service("embed").response(Representation.WORKERS).etag
        != view.service("embed").response(Representation.WORKERS).etag
    )


@pytest.mark.parametrize("changes", [{"incarnation": 9}, {"why": "refuted"}])
def test_what_no_answer_holds_moves_nothing(changes):
    before = view_of(THREE)
    held = before.service("embed")
    before.update(change_w3(**changes))
    assert before.index("embed") == 1
    assert before.service("embed").response(Representation.WORKERS).body == held.response(Representation.WORKERS).body


def test_since_alone_is_shown_and_moves_neither_index_nor_etag():
    view = view_of(THREE)
    tag = view.service("embed").response(Representation.WORKERS).etag
    view.update(change_w3(since=101.5))
    assert view.index("embed") == 1
    assert view.service("embed").response(Representation.WORKERS).etag == tag
    assert answer(view).workers[2].since == "2023-11-14T22:15:01.500Z"


def test_suspicion_moves_the_index_and_never_the_routing_digest():
    view = view_of(THREE)
    digest = answer(view).routing_digest
    view.update(change_w3(liveness=Liveness.SUSPECT))
    assert answer(view).index == 2
    assert answer(view).routing_digest == digest
    view.update(change_w3(liveness=Liveness.DEAD))
    assert answer(view).routing_digest != digest


def test_a_change_of_one_service_leaves_the_others_alone():
    both = pool(member("w1"), member("c1", service="chat"))
    view = view_of(both)
    chat = view.service("chat")
    view.update(pool(member("w1", weight=10), member("c1", service="chat")))
    assert (view.index("embed"), view.index("chat"), view.index("")) == (2, 1, 2)
    assert view.service("chat") is chat


def test_isolation_moves_the_index_of_every_service_even_unnamed_ones():
    view = view_of(THREE, pool(*THREE.members, connectivity=Connectivity.DEAF))
    assert (view.index("embed"), view.index(""), view.index("nobody")) == (2, 2, 2)
    assert answer(view).isolated


def test_how_a_sidecar_is_cut_off_is_in_a_header_and_moves_the_index():
    view = view_of(pool(*THREE.members))
    assert b"Connectivity" not in view.service("embed").response(Representation.WORKERS).headers
    for index, connectivity in enumerate((Connectivity.DEAF, Connectivity.MUTE), 2):
        view.update(pool(*THREE.members, connectivity=connectivity))
        assert view.index("embed") == index
        said = f"X-Rumormill-Connectivity: {connectivity.value}\r\n".encode()
        for form in (Representation.WORKERS, Representation.READY, Representation.POOL):
            assert said in view.service("embed").response(form).headers


@pytest.mark.parametrize(("heard", "spare"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_a_suspect_is_no_spare(heard: int, spare: int):
    """The suspect may be dead already. If three of four members fall silent, none may be dropped."""
    members = [member(f"w{n}", liveness=Liveness.ALIVE if n < heard else Liveness.SUSPECT) for n in range(4)]
    counted = view_of(pool(*members)).service("embed").pool_answer()
    assert (counted.routable, counted.suspect, counted.failures_to_spare) == (4, 4 - heard, spare)


def test_ready_holds_only_the_routable_and_the_digest_of_all():
    views = pool(
        member("w1"),
        member("w2", readiness=Readiness.WARNING, liveness=Liveness.SUSPECT),
        member("w3", readiness=Readiness.STARTING),
        member("w4", weight=0),
        member("w5", readiness=Readiness.CRITICAL),
        member("w6", liveness=Liveness.LEFT),
        member("w7", pending=True),
    )
    view = view_of(views)
    assert [worker.name for worker in answer(view, form=Representation.READY).workers] == ["w1", "w2"]
    assert [worker.name for worker in answer(view).workers] == ["w1", "w2", "w3", "w4", "w5"]
    assert answer(view, form=Representation.READY).routing_digest == answer(view).routing_digest
    counted = view.service("embed").pool_answer()
    assert (counted.workers, counted.routable, counted.suspect, counted.capacity) == (5, 2, 1, 2.0)
    assert (counted.failures_to_spare, counted.mean_utilization, counted.scale_out) == (0, None, None)


def test_an_unknown_service_can_be_waited_for():
    view = view_of(THREE)
    assert answer(view, "chat").workers == []
    before = view.index("chat")
    view.update(pool(*THREE.members, member("c1", service="chat")))
    assert view.index("chat") == before + 1


def test_a_service_that_loses_its_last_worker_goes_on_counting():
    view = view_of(pool(member("w1")), pool(), pool(member("w1")))
    assert view.index("embed") == 3


def test_an_answer_is_encoded_once():
    view = view_of(THREE)
    held = view.service("embed").response(Representation.WORKERS)
    view.update(pool(*THREE.members))
    assert view.service("embed").response(Representation.WORKERS) is held


def test_made_up_service_names_cost_a_bounded_amount_and_no_index_falls():
    view = view_of(pool())
    seen: dict[str, int] = {}
    for number in range(MAX_EMPTY_SERVICES + 200):
        name = f"s{number}"
        view.update(pool(member("w1", service=name)))
        seen[name] = view.index(name)
    assert len(view._services) <= MAX_EMPTY_SERVICES + 3
    assert all(view.index(name) >= index for name, index in seen.items())
    view.update(pool(member("w1", service="s0")))
    assert view.index("s0") > seen["s0"]


def test_a_process_that_cannot_stand_in_a_header_is_refused():
    with pytest.raises(ValueError, match="letters, digits"):
        RoutingView(process="a\r\nb", wall_offset=0.0)


members_drawn = st.builds(
    member,
    st.sampled_from(["w1", "w2", "w3"]),
    service=st.sampled_from(["embed", "chat", ""]),
    liveness=st.sampled_from(Liveness),
    readiness=st.sampled_from(Readiness),
    weight=st.sampled_from([0, 1, 1000]),
    since=st.sampled_from([1.0, 2.0]),
    incarnation=st.integers(1, 2),
    pending=st.booleans(),
)
pools_drawn = st.builds(
    lambda members, connectivity: pool(*{one.name: one for one in members}.values(), connectivity=connectivity),
    st.lists(members_drawn, max_size=3),
    st.sampled_from(Connectivity),
)


def _shown(view: RoutingView, service: str) -> object:
    got = answer(view, service)
    workers = [msgspec.structs.replace(one, since="") for one in got.workers]
    return view.service(service).connectivity, got.policy, workers


@given(st.lists(pools_drawn, min_size=2, max_size=6))
def test_the_index_moves_exactly_when_the_answer_does(views):
    view = view_of(views[0])
    for each in views[1:]:
        before = {name: (view.index(name), _shown(view, name), answer(view, name).routing_digest) for name in NAMES}
        view.update(each)
        for name, (index, shown, digest) in before.items():
            now = answer(view, name)
            assert now.index == view.index(name) == index + (_shown(view, name) != shown)
            ready = answer(view, name, Representation.READY)
            assert ready.routing_digest == now.routing_digest
            assert ready.workers == [worker for worker in now.workers if worker.routable]
            if not _differs_but_for_suspicion(shown, _shown(view, name)):
                assert now.routing_digest == digest


NAMES = ["", "embed", "chat", "nobody"]


def _differs_but_for_suspicion(before: Any, now: Any) -> bool:
    calm = [[msgspec.structs.replace(worker, liveness="alive") for worker in shown[2]] for shown in (before, now)]
    return calm[0] != calm[1]


def test_another_wall_clock_moves_the_times_and_no_index():
    view = view_of(THREE)
    before = answer(view)
    view.set_wall_offset(WALL_OFFSET + 3600)
    after = answer(view)
    assert after.index == before.index
    for was, now in zip(before.workers, after.workers, strict=True):
        moved = datetime.fromisoformat(now.since) - datetime.fromisoformat(was.since)
        assert moved.total_seconds() == 3600
