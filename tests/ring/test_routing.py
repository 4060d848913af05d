"""Routing and its digest: equal digests mean equal owners, and only what affects routing changes the digest."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_pools import any_policy, any_pool, names_of, worker

from rumormill.ring import CanaryShare, EmptyRing, Routing, RoutingPolicy, canonical_routing, routing_digest

KEYS = [f"key-{i}" for i in range(50)]

# The table of docs/reference/ring.md, not in order.
DOCUMENTED = [
    worker("w2", generation=3, zone='z"1', release="v2", weight=0.5),
    worker("w1"),
    worker("𝄞", generation=2**39, zone="b", weight=1.001),
    worker("ﬀ", zone="ü"),
]
DOCUMENTED_POLICY = RoutingPolicy(index=7, canary=[CanaryShare("v2", 0.05), CanaryShare("v1", 0.3333)], zone="a")


def test_the_documented_vectors():
    assert routing_digest("embed", DOCUMENTED, DOCUMENTED_POLICY) == "db323b4694a06f63"
    routing = Routing("embed", DOCUMENTED, DOCUMENTED_POLICY)
    assert routing.digest == "db323b4694a06f63"
    assert names_of(routing.owners("user-1")) == ["w2", "w1", "ﬀ", "𝄞"]
    assert names_of(routing.owners("ключ")) == ["w1", "ﬀ", "𝄞", "w2"]
    assert names_of(routing.owners("ключ", zone="")) == ["ﬀ", "w1", "𝄞", "w2"]
    assert names_of(routing.owners("user-1", zone="b")) == ["w2", "𝄞", "ﬀ", "w1"]


def test_the_canonical_bytes_are_what_other_languages_write():
    text = canonical_routing("embed", DOCUMENTED, DOCUMENTED_POLICY).decode()
    assert text == json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    assert json.loads(text)[2][1] == ["w2", 3, f"{3:032x}", "http://10.0.0.1:9001/w2", 'z"1', "v2", 500]
    assert json.loads(text)[3:] == [[["v2", 500], ["v1", 3333]], "a"]


@given(any_pool, any_pool, any_policy, any_policy)
def test_equal_digests_mean_equal_owners_and_unequal_routing_unequal_digests(one, other, policy, another):
    first, second = Routing("embed", one, policy), Routing("embed", other, another)
    same = canonical_routing("embed", one, policy) == canonical_routing("embed", other, another)
    assert (first.digest == second.digest) == same
    if same:
        assert [names_of(first.owners(key)) for key in KEYS] == [names_of(second.owners(key)) for key in KEYS]


@given(any_pool, any_policy, st.randoms(use_true_random=False))
def test_neither_order_nor_anything_that_does_not_decide_moves_the_digest(pool, policy, rng):
    suspected = [
        msgspec.structs.replace(
            w,
            liveness={"alive": "suspect", "suspect": "alive"}.get(w.liveness, w.liveness),
            readiness={"passing": "warning", "warning": "passing"}.get(w.readiness, w.readiness),
            utilization=0.5,
            tags={"gpu": "a"},
            since="",
        )
        for w in pool
    ]
    rng.shuffle(suspected)
    renumbered = msgspec.structs.replace(policy, index=policy.index + 1)
    assert routing_digest("embed", pool, policy) == routing_digest("embed", suspected, renumbered)


@given(any_pool, any_pool, any_policy, any_policy)
def test_a_routing_evolved_is_the_routing_built(one, other, before, policy):
    evolved = Routing("embed", one, before).updated(other, policy)
    built = Routing("embed", other, policy)
    assert evolved.digest == built.digest
    assert evolved.workers == built.workers
    assert [evolved.owners(key) for key in KEYS] == [built.owners(key) for key in KEYS]


def test_a_large_pool_evolves_by_splicing_and_by_building_anew():
    pool = [worker(f"w{i}") for i in range(60)]
    routing = Routing("embed", pool)
    for smaller in (pool[1:], pool[::2], [*pool, worker("new"), worker("w3", weight=2.0)]):
        evolved, built = routing.updated(smaller), Routing("embed", smaller)
        assert [evolved.owners(key, 3) for key in KEYS] == [built.owners(key, 3) for key in KEYS]


def test_every_field_that_decides_moves_the_digest():
    base = worker("w1")
    changes = {"name": "w9", "generation": 2, "instance": "f" * 32, "url": "http://x", "zone": "z", "release": "v9"}
    digests = {routing_digest("embed", [base], RoutingPolicy()), routing_digest("chat", [base], RoutingPolicy())}
    for field, value in (changes | {"weight": 1.001}).items():
        digests.add(routing_digest("embed", [msgspec.structs.replace(base, **{field: value})], RoutingPolicy()))
    for policy in (
        RoutingPolicy(zone="a"),
        RoutingPolicy(canary=[CanaryShare("v2", 0.05)]),
        RoutingPolicy(canary=[CanaryShare("v2", 0.1)]),
    ):
        digests.add(routing_digest("embed", [base], policy))
    assert len(digests) == 2 + 7 + 3


def test_the_order_of_candidates_decides_and_so_is_in_the_digest():
    pool = [worker("w1"), worker("w2", release="v2"), worker("w3", release="v3")]
    shares = [CanaryShare("v2", 0.2), CanaryShare("v3", 0.2)]
    one, other = (
        Routing("embed", pool, RoutingPolicy(canary=shares)),
        Routing("embed", pool, RoutingPolicy(canary=shares[::-1])),
    )
    assert one.digest != other.digest
    assert one.owners_many(KEYS) != other.owners_many(KEYS)


def test_of_two_instances_of_one_name_the_later_is_routed():
    routing = Routing("embed", [worker("w1", generation=2), worker("w1", generation=1)])
    assert [w.generation for w in routing.owners("k")] == [2]


def test_only_the_routable_are_owners_and_suspects_stay_where_they_are():
    pool = [worker(f"w{i}") for i in range(5)]
    before = names_of(Routing("embed", pool).owners("k"))
    suspect = msgspec.structs.replace(pool[0], liveness="suspect")
    assert names_of(Routing("embed", [suspect, *pool[1:]]).owners("k")) == before
    for unready in ("starting", "critical", "draining"):
        without = msgspec.structs.replace(pool[0], readiness=unready)
        assert names_of(Routing("embed", [without, *pool[1:]]).owners("k")) == [n for n in before if n != "w0"]


def test_a_service_without_routable_workers_has_no_owners():
    routing = Routing("embed", [worker("w1", weight=0.0)])
    assert routing.workers == ()
    assert routing.owners("k") == routing.owners("k", 3) == []
    with pytest.raises(EmptyRing):
        routing.owners_many(["k"])
    assert names_of(routing.updated([worker("w1")]).owners_many(["k", "j"])) == ["w1", "w1"]


def test_owners_are_asked_for_by_the_head_or_whole():
    routing = Routing("embed", [worker(f"w{i}") for i in range(9)])
    for key in KEYS:
        run_to_completion = routing.owners(key)
        assert len(run_to_completion) == 9
        assert routing.owners(key, 3) == run_to_completion[:3]
        assert next(routing.walk(key)) == run_to_completion[0]
