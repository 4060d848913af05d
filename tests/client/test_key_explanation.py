"""`pool.explain(key)`: the order is the one that requests really take, and each place has its reason."""

from __future__ import annotations

import random

import httpx2
import pytest
from callers import KEYED, calling
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import DRAINING, SUSPECT, answering, stage, stage_in_thread
from test_client_decisions import everyone, selector_of, topology_of, worker

from rumormill.client import SyncPool
from rumormill.client.rules.response_class import classify_response
from rumormill.client.selection.explanation import KeyExplanation, explain_key
from rumormill.client.selection.worker_selector import WorkerSelector


def order(explanation: KeyExplanation) -> list[str]:
    return [place.worker.name for place in explanation.places]


def kinds(explanation: KeyExplanation, name: str) -> list[str]:
    (place,) = [place for place in explanation.places if place.worker.name == name]
    return [reason.kind for reason in place.reasons]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["alive", "suspect"]),
            st.sampled_from(["passing", "warning", "draining", "starting", "critical"]),
            st.sampled_from([None, 0.1, 0.9]),
            st.sampled_from(["well", "unreachable", "refused", "failing"]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.text(min_size=1, max_size=5),
)
def test_the_order_is_that_of_the_attempts(states: list[tuple[str, str, float | None, str]], key: str) -> None:
    workers = [
        worker(f"w{number}", liveness=liveness, readiness=readiness, utilization=utilization)
        for number, (liveness, readiness, utilization, _) in enumerate(states)
    ]
    selector = selector_of(*workers)
    for one, (*_, outcome) in zip(workers, states, strict=True):
        match outcome:
            case "unreachable":
                selector.record_unreachable(one, 1.0, 1.0)
            case "refused":
                selector.record_answer(one, classify_response(429, "7"), 1.0, 1.0)
            case "failing":
                for _ in range(9):
                    selector.record_answer(one, classify_response(500), 1.0, 1.0)
    explained = explain_key(selector, key, 1.5)
    assert order(explained) == everyone(selector, key, now=1.5)
    assert all(place.reasons for place in explained.places)
    assert str(explained)


def test_each_place_has_its_reasons() -> None:
    names = ["draining", "open", "quick", "suspect"]
    changes: dict[str, dict[str, object]] = {"draining": {"readiness": "draining"}, "suspect": {"liveness": "suspect"}}
    workers = {name: worker(name, **changes.get(name, {})) for name in names}
    selector = selector_of(*workers.values())
    selector.record_unreachable(workers["open"], 1.0, 1.0)
    explained = explain_key(selector, "user-1", 1.2)
    assert order(explained) == ["quick", "open", "suspect", "draining"]
    assert kinds(explained, "quick") == ["owner"]
    assert kinds(explained, "open") == ["owner", "breaker_open"]
    assert kinds(explained, "suspect") == ["owner", "suspect"]
    assert kinds(explained, "draining") == ["not_ready"]
    (left,) = [reason.seconds for reason in explained.places[1].reasons if reason.kind == "breaker_open"]
    assert left == pytest.approx(0.9, abs=0.11)
    assert [place.owner for place in explained.places][3] is None
    assert "breaker open for" in str(explained)


def test_who_is_gone_comes_last_and_weight_0_never() -> None:
    selector = WorkerSelector("embed", random.Random(0))
    before = topology_of(worker("w0"), worker("w1"), worker("idle", weight=0.0))
    selector.update(before, 0.0)
    selector.update(topology_of(worker("w0"), worker("idle", weight=0.0), before=before, now=1.0), 1.0)
    explained = explain_key(selector, "k", 1.0)
    assert order(explained) == ["w0", "w1"]
    assert kinds(explained, "w1") == ["evicted"]


def test_zones_are_explained() -> None:
    selector = WorkerSelector("embed", random.Random(0), zone="a")
    selector.update(topology_of(worker("w0", zone="a"), worker("w1", zone="b")), 0.0)
    assert all("zone" in kinds(explain_key(selector, "k", 0.0), name) for name in ("w0", "w1"))


async def test_a_pool_explains_what_its_next_request_will_do():
    async with stage() as scene, calling(scene, replay="always") as (pool, http):
        first, second, third = scene.owners("user-1")
        first.kill()
        await http.post("/", content=b"x", headers=KEYED)
        second.behaviour = answering(503)
        scene.change(third.name, liveness=SUSPECT)
        while all(worker.liveness == "alive" for worker in pool.workers):
            await pool.changed(pool.topology)
        explained = pool.explain("user-1")
        assert order(explained) == [second.name, first.name, third.name]
        assert kinds(explained, first.name) == ["owner", "breaker_open"]


def test_a_synchronous_pool_explains_too() -> None:
    with stage_in_thread() as staged, SyncPool(staged.scene.urls, "embed") as pool:
        first = staged.scene.owners("user-1")[0]
        staged.do(lambda: staged.scene.change(first.name, readiness=DRAINING))
        while all(worker.readiness == "passing" for worker in pool.workers):
            pool.changed(pool.topology, timeout=None)
        assert order(pool.explain("user-1"))[-1] == first.name
        with httpx2.Client(transport=pool.transport(), base_url="http://embed") as http:
            assert http.get("/", headers=KEYED).text == order(pool.explain("user-1"))[0]
