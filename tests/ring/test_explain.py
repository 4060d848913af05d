"""An explanation says how routing decides, and which worker a caller then takes."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from ring_pools import any_policy, any_pool, canary, names_of, worker

from rumormill.ring import Routing, RoutingPolicy, explain


@given(any_pool, any_policy, st.text(max_size=4), st.sampled_from([None, "", "a"]))
def test_the_candidates_are_the_owners_and_the_first_is_chosen(pool, policy, key, zone) -> None:
    routing = Routing("embed", pool, policy)
    told = explain(
        routing, key, zone=zone, liveness={w.name: "alive" for w in pool}, readiness={w.name: "passing" for w in pool}
    )
    assert [candidate.name for candidate in told.candidates] == names_of(routing.owners(key, zone=zone))
    assert told.chosen == next((owner.name for owner in routing.walk(key, zone=zone)), None)
    assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)) == told


def test_it_says_which_release_the_gate_chose_and_why() -> None:
    workers = [worker("w1"), worker("w2", release="v2")]
    keys = [f"user-{i}" for i in range(200)]
    routing = Routing("embed", workers, canary(v2=0.25))
    for key in keys:
        told = explain(routing, key)
        assert told.release == ("v2" if told.gate_slot < 2500 else None)
        assert f"slot {told.gate_slot} of 10000 belongs to" in told.gate
    without = Routing("embed", workers[:1], canary(v2=0.25))
    assert any("which has no workers: drawn again for the rest" in explain(without, key).gate for key in keys)
    assert "all workers are on one ring" in explain(Routing("embed", workers), "k").gate
    assert explain(Routing("embed", [], canary(v2=0.5)), "k").gate == "no worker is routable"


def test_it_says_whether_the_zone_keeps_the_key() -> None:
    workers = [worker("a0"), *(worker(f"b{i}", zone="b") for i in range(9))]
    routing = Routing("embed", workers, RoutingPolicy(zone="a"))
    told = [explain(routing, f"user-{i}") for i in range(300)]
    assert {t.zone_kept for t in told} == {2500}
    for t in told:
        assert (t.candidates[0].zone == "a") == (t.zone_slot < 2500)
        assert ("stays" in t.zoned) == (t.zone_slot < 2500)
    assert "keeps all of its keys" in explain(routing, "k", zone="b").zoned
    assert explain(routing, "k", zone="").zoned == "no zone is preferred"


def test_objections_say_why_a_caller_goes_on_and_the_least_of_them_wins() -> None:
    routing = Routing("embed", [worker("w1"), worker("w2"), worker("w3")])
    first, second, third = names_of(routing.owners("k"))
    told = explain(routing, "k", liveness={first: "suspect"})
    assert told.candidates[0].objection == "suspect: tried last"
    assert told.chosen == second

    keys = [f"user-{i}" for i in range(400)]
    ramping = [explain(routing, key, ages={"w1": 15.0}) for key in keys]
    for t in ramping:
        new = next(c for c in t.candidates if c.name == "w1")
        assert new.admits == 0.5
        assert bool(new.objection) == (t.place >= 0.5)
    assert any(t.candidates[0].name == "w1" != t.chosen for t in ramping)

    busy = [explain(routing, key, utilization={"w1": 0.9, "w2": 0.3, "w3": 0.3}) for key in keys]
    # The mean is .5, the bound .625: w1 keeps .69 of its keys.
    assert {round(c.admits, 2) for t in busy for c in t.candidates} == {0.69, 1.0}
    assert any("over the bound" in t.candidates[0].objection and t.chosen != "w1" for t in busy)

    everyone = dict.fromkeys((first, second, third), "suspect")
    assert explain(routing, "k", liveness=everyone).chosen == first  # type: ignore[arg-type]


def test_a_canary_that_is_busy_keeps_its_keys() -> None:
    routing = Routing("embed", [worker("old"), worker("new", release="v2")], canary(v2=1.0))
    told = explain(routing, "k", utilization={"old": 0.1, "new": 0.95})
    assert (told.chosen, told.candidates[0].objection) == ("new", "")


def test_it_says_that_a_warned_worker_admits_half_of_its_keys() -> None:
    routing = Routing("embed", [worker("w1"), worker("w2")])
    for number in range(50):
        told = explain(routing, f"user-{number}", readiness={"w1": "warning"})
        assert {c.name: c.admits for c in told.candidates} == {"w1": 0.5, "w2": 1.0}
        objections = {c.name: c.objection for c in told.candidates}
        assert objections["w1"].startswith("warning: ") == (told.place >= 0.5)
        assert objections["w2"] == ""
        first = told.candidates[0].name
        assert told.chosen == ("w2" if objections["w1"] else first)
