"""The ring is a pure function of its weights, moves no more keys than it must, and shares them evenly."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeds import MORE_SEEDS

from rumormill.ring import EmptyRing, HashRing

KEYS = [f"key-{i}" for i in range(400)]
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
weights = st.sampled_from([0.001, 0.25, 0.5, 1.0, 1.5, 2.0, 3.125])
pools = st.dictionaries(names, weights, min_size=1, max_size=8)
keys = st.one_of(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), st.binary(max_size=20))


def owners_of_all(ring: HashRing) -> list[list[str]]:
    return [ring.owners(key, len(ring)) for key in KEYS[:100]]


@given(pools, st.randoms(use_true_random=False))
def test_however_a_ring_came_to_be_equal_weights_give_equal_owners(pool, rng):
    built = HashRing(pool, points=16)
    order = list(pool)
    rng.shuffle(order)
    grown = HashRing({}, points=16)
    for name in order:
        # "passing by" is longer than any name drawn.
        grown = grown.with_member(name, 1.0).with_member("passing by", 2.0).with_member(name, pool[name])
        grown = grown.without_member("passing by")
    assert grown.weights == pool
    assert owners_of_all(grown) == owners_of_all(built)


@given(pools, st.data())
def test_removing_a_member_moves_only_its_keys_and_in_order_of_preference(pool, data):
    ring = HashRing(pool, points=16)
    name = data.draw(st.sampled_from(sorted(pool)))
    smaller = ring.without_member(name)
    for key in KEYS[:100]:
        assert smaller.owners(key, 8) == [owner for owner in ring.owners(key, 8) if owner != name]


@given(pools, st.data(), weights)
def test_a_weight_change_moves_keys_only_to_or_from_that_member(pool, data, weight):
    ring = HashRing(pool, points=64)
    name = data.draw(st.sampled_from(sorted(pool)))
    changed = ring.with_weight(name, weight)
    assert list(changed.points()) == list(ring.with_member(name, weight).points())
    for key in KEYS:
        before, after = ring.owner(key), changed.owner(key)
        if before != after:
            assert after == name if weight > pool[name] else before == name


@given(pools, keys, st.integers(0, 12))
def test_owners_are_distinct_and_are_the_beginning_of_the_walk(pool, key, n):
    ring = HashRing(pool, points=4)
    walk = list(ring.walk(key))
    assert sorted(walk) == sorted(pool)
    assert ring.owners(key, n) == walk[:n]
    assert ring.owner(key) == walk[0]
    assert ring.owners_many([key, key]) == [walk[0]] * 2


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_string_is_its_utf8_bytes(text):
    ring = HashRing(dict.fromkeys(("a", "b", "c"), 1.0))
    assert ring.owners(text, 3) == ring.owners(text.encode(), 3)


def test_more_owners_than_a_short_scan_serves():
    ring = HashRing({f"w{i}": 1.0 for i in range(40)}, points=8)
    for key in KEYS[:50]:
        assert ring.owners(key, 30) == list(itertools.islice(ring.walk(key), 30))
        assert sorted(ring.owners(key, 99)) == sorted(ring.weights)


@pytest.mark.parametrize(("size", "bound"), [(3, 1.15), (10, 1.25), (100, 1.35)])
def test_equal_members_share_keys_evenly(size, bound):
    ring = HashRing({f"w{i}": 1.0 for i in range(size)})
    owned = ring.owners_many(f"user-{i}" for i in range(60_000))
    mean = len(owned) / size
    counts = [owned.count(name) for name in ring.weights]
    assert max(counts) / mean < bound
    assert min(counts) / mean > 2 - bound - 0.05


def test_shares_follow_weights():
    pool = {"half": 0.5, "one": 1.0, "two": 2.0, "four": 4.0}
    owned = HashRing(pool).owners_many(f"user-{i}" for i in range(60_000))
    for name, weight in pool.items():
        assert owned.count(name) / len(owned) == pytest.approx(weight / 7.5, rel=0.15)


def test_a_heavier_member_takes_about_what_its_weight_says():
    before = HashRing({f"w{i}": 1.0 for i in range(10)})
    after = before.with_member("w3", 2.0)
    users = [f"user-{i}" for i in range(30_000)]
    moved = sum(a != b for a, b in zip(before.owners_many(users), after.owners_many(users), strict=True))
    # From 1/10 of the keys to 2/11.
    assert moved / len(users) == pytest.approx(2 / 11 - 1 / 10, rel=0.25)


def test_members_that_share_a_point_stand_in_order_of_their_names():
    # The first points of these two are one number, 839911287.
    a, b = HashRing({"w5426": 1.0}, points=1), HashRing({"w36094": 1.0}, points=1)
    assert [position for position, _ in a.points()] == [position for position, _ in b.points()] == [839911287]
    both = [
        HashRing({"w5426": 1.0, "w36094": 1.0}, points=1),
        a.with_member("w36094", 1.0),
        b.with_member("w5426", 1.0),
        a.with_member("x", 1.0).with_member("w36094", 1.0).without_member("x"),
    ]
    assert {tuple(ring.owners("k", 2)) for ring in both} == {("w36094", "w5426")}
    assert {ring.without_member("w36094").owner("k") for ring in both} == {"w5426"}
    assert {ring.without_member("w5426").owner("k") for ring in both} == {"w36094"}


def test_a_ring_is_not_changed_by_what_is_made_from_it():
    ring = HashRing({"a": 1.0, "b": 1.0})
    before = owners_of_all(ring)
    ring.with_member("c", 1.0).without_member("a").with_member("d", 5.0)
    assert owners_of_all(ring) == before
    assert dict(ring.weights) == {"a": 1.0, "b": 1.0}
    assert "a" in ring
    assert "c" not in ring


def test_an_empty_ring_says_so():
    ring = HashRing({"a": 1.0}).without_member("a")
    assert len(ring) == 0
    assert ring.owners("k", 3) == list(ring.walk("k")) == []
    with pytest.raises(EmptyRing, match="no members"):
        ring.owner("k")
    with pytest.raises(EmptyRing, match="no members"):
        ring.owners_many(["k"])
    assert ring.with_member("b", 1.0).owner("k") == "b"


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_must_be_a_number_above_zero(weight):
    with pytest.raises(ValueError, match=r"weight of 'w'.*above zero"):
        HashRing({"w": weight})
    with pytest.raises(ValueError, match=r"weight of 'w'.*above zero"):
        HashRing({}).with_member("w", weight)


def test_bounds_of_a_ring():
    with pytest.raises(ValueError, match="at least one point"):
        HashRing({}, points=0)
    with pytest.raises(ValueError, match="at most 65534"):
        HashRing(dict.fromkeys(map(str, range(65_535)), 1.0), points=1)
    with pytest.raises(KeyError):
        HashRing({"a": 1.0}).without_member("b")
    with pytest.raises(KeyError):
        HashRing({"a": 1.0}).with_weight("b", 2.0)


@given(pools, pools)
def test_a_ring_made_from_another_is_the_ring_built(pool, other):
    made = HashRing(pool, points=16).with_weights(other)
    assert made.weights == other
    assert owners_of_all(made) == owners_of_all(HashRing(other, points=16))


@pytest.mark.parametrize("replaced", [1, 5, 12, 60])
def test_many_members_come_and_go_at_once(replaced):
    ring = HashRing({f"w{i}": 1.0 for i in range(100)})
    weights = {f"w{i}": 1.0 for i in range(replaced, 100)} | {f"new{i}": 1.25 for i in range(replaced)}
    weights["w99"] = 2.0
    made, built = ring.with_weights(weights), HashRing(weights)
    assert list(made.points()) == list(built.points())
    assert list(made.with_weights(ring.weights).points()) == list(ring.points())
    assert ring.with_weights(dict(ring.weights)) is ring


@pytest.mark.parametrize("size", [10, *(pytest.param(size, marks=MORE_SEEDS) for size in (100, 1000))])
def test_one_of_n_leaves_and_only_its_keys_move(size):
    ring = HashRing({f"w{i}": 1.0 for i in range(size)})
    users = [f"user-{i}" for i in range(100_000)]
    before = ring.owners_many(users)
    worst = max(ring.shares(), key=ring.shares().__getitem__)
    moved_in_all = 0
    for name in {worst, *(f"w{i * size // 10}" for i in range(10))}:
        after = ring.without_member(name).owners_many(users)
        moved = [old for old, new in zip(before, after, strict=True) if old != new]
        assert set(moved) == {name}
        moved_in_all += len(moved) * (name != worst)
    # Ten of them on the average, so that neither a heavy one nor the draw of the keys decides.
    assert moved_in_all / 10 / len(users) <= 1.15 / size


def test_one_hundredth_more_weight_moves_that_share_and_no_other():
    ring = HashRing({f"w{i}": 1.0 for i in range(20)})
    heavier = ring.with_weight("w7", 1.01)
    users = [f"user-{i}" for i in range(400_000)]
    moved = [(a, b) for a, b in zip(ring.owners_many(users), heavier.owners_many(users), strict=True) if a != b]
    assert {new for _, new in moved} == {"w7"}
    # 400 points and 4 more of 8004: their gaps are drawn like any, so the share has a wide margin.
    assert 0.2 < len(moved) / len(users) / (4 / 8004) < 2.5
    exact = heavier.shares()["w7"] - ring.shares()["w7"]
    assert len(moved) / len(users) == pytest.approx(exact, rel=0.15)


def test_the_busiest_of_a_hundred_has_little_more_than_its_share():
    worst = [max(HashRing({f"set{s}-{i}": 1.0 for i in range(100)}).shares().values()) * 100 for s in range(20)]
    assert statistics.median(worst) <= 1.15
    assert max(worst) < 1.25


def test_a_hash_that_comes_up_twice_for_one_member_goes_with_it():
    twice = next(name for name in (f"w{i}" for i in range(50)) if _collides(name, 80_000))
    pool = {twice: 1.0, "other": 0.001}
    ring = HashRing(pool, points=80_000)
    assert {name for _, name in ring.without_member(twice).points()} == {"other"}
    assert set(ring.with_member(twice, 0.5).points()) == set(HashRing({**pool, twice: 0.5}, points=80_000).points())


def _collides(name: str, points: int) -> bool:
    positions = [position for position, _ in HashRing({name: 1.0}, points=points).points()]
    return len(set(positions)) < len(positions)
