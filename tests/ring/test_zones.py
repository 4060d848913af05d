"""Zones: a caller's own zone comes first, and other zones get only the keys for which it lacks capacity."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_pools import ZONES, any_policy, any_pool, canary, names_of, worker

from rumormill.ring import Routing, RoutingPolicy, Worker
from rumormill.ring.zones import zone_basis_points

USERS = [f"user-{i}" for i in range(6_000)]


def pool(**sizes: int) -> list[Worker]:
    return [worker(f"{zone}{i}", zone=zone) for zone, size in sizes.items() for i in range(size)]


def share_kept(routing: Routing, zone: str) -> float:
    firsts = [next(routing.walk(key, zone=zone)) for key in USERS]
    return sum(first.zone == zone for first in firsts) / len(firsts)


def test_a_zone_with_its_part_of_the_capacity_keeps_all_of_its_keys() -> None:
    routing = Routing("embed", pool(a=4, b=4, c=5))
    for zone in ZONES:
        for key in USERS[:300]:
            zones = [run for run, _ in itertools.groupby(owner.zone == zone for owner in routing.walk(key, zone=zone))]
            assert zones == [True, False]
            assert routing.owners(key, 3, zone=zone) == routing.owners(key, zone=zone)[:3]


@pytest.mark.parametrize(
    ("lost", "kept"),
    # Of 8 in each of three zones. With 6, 4, 2 and 1 left, the part it should have is 22/3, 20/3, 18/3, 17/3.
    [(0, 1), (1, 1), (2, 1), (4, 1.25 * 4 / (20 / 3)), (6, 1.25 * 2 / 6), (7, 1.25 * 3 / 17), (8, 0)],
)
def test_a_zone_that_loses_workers_spills_in_proportion(lost: int, kept: float) -> None:
    routing = Routing("embed", pool(a=8 - lost, b=8, c=8))
    assert share_kept(routing, "a") == pytest.approx(kept, abs=0.02)


def test_what_spills_is_spread_over_the_other_zones_and_no_worker_gets_more_than_its_bound() -> None:
    routing = Routing("embed", pool(a=2, b=8, c=8))
    load: Counter[str] = Counter()
    for zone in ZONES:
        load.update(next(routing.walk(key, zone=zone)).zone for key in USERS)
    mean = 3 * len(USERS) / 18
    assert load["a"] / 2 / mean == pytest.approx(1.25, rel=0.05)
    assert load["b"] / 8 / mean == pytest.approx(load["c"] / 8 / mean, rel=0.05)
    assert load["b"] / 8 / mean < 1.05


def test_losing_one_more_worker_moves_its_keys_and_a_few_more_out_and_none_in() -> None:
    before, after = Routing("embed", pool(a=4, b=8)), Routing("embed", pool(a=3, b=8))
    for key in USERS:
        old, new = next(before.walk(key, zone="a")), next(after.walk(key, zone="a"))
        if old.name == "a3":
            assert new.zone == "b" or new == next(w for w in before.walk(key, zone="a") if w.name != "a3")
        elif old.zone == "b":
            assert new == old
        else:
            assert new == old or new.zone == "b"


def test_the_policys_zone_counts_for_those_who_name_none() -> None:
    routing = Routing("embed", pool(a=3, b=3), RoutingPolicy(zone="b"))
    plain = Routing("embed", pool(a=3, b=3))
    for key in USERS[:200]:
        assert routing.owners(key) == plain.owners(key, zone="b")
        assert routing.owners_many([key]) == routing.owners(key)[:1] == routing.owners(key, 1)
        assert routing.owners(key, zone="a") == plain.owners(key, zone="a")
        assert routing.owners(key, zone="") == plain.owners(key)


def test_the_release_comes_before_the_zone() -> None:
    workers = [worker(f"w{i}", zone="ab"[i % 2], release="v2" if i < 2 else "v1") for i in range(8)]
    routing = Routing("embed", workers, canary(v2=0.5))
    for key in USERS[:300]:
        released = [(owner.release, owner.zone) for owner in routing.owners(key, zone="a")]
        assert [run for run, _ in itertools.groupby(release for release, _ in released)] in (["v1", "v2"], ["v2", "v1"])
        assert released[0][1] == "a"


@given(any_pool, any_policy, st.sampled_from([None, "", "a", "nowhere"]), st.text(max_size=5))
def test_every_routable_worker_is_an_owner_once_whatever_is_preferred(pool, policy, zone, key) -> None:
    routing = Routing("embed", pool, policy)
    order = routing.owners(key, zone=zone)
    assert sorted(names_of(order)) == names_of(routing.workers)
    for n in range(len(order) + 2):
        assert routing.owners(key, n, zone=zone) == order[:n]


@given(st.dictionaries(st.sampled_from(ZONES), st.integers(0, 10**7)), st.integers(1, 50))
def test_what_is_kept_is_a_part_of_all(capacity, zones) -> None:
    for zone in ZONES:
        kept = zone_basis_points(zone, capacity, zones)
        assert 0 <= kept <= 10_000
        assert (kept == 0) == (capacity.get(zone, 0) * 12_500 * zones < max(sum(capacity.values()), 1))
