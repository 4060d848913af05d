"""Canaries: 5 % means 5 % of the keys, a growing share only adds keys, a release without workers loses its share."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_pools import canary, names_of, worker
from seeds import MORE_SEEDS

from rumormill.ring import CanaryShare, Routing, RoutingPolicy, TrafficSplit, Worker

USERS = [f"user-{i}" for i in range(60_000)]


def pool(names: str = "w", size: int = 20, **releases: int) -> list[Worker]:
    """`size` workers, of which the first so many run each release and the others v1."""
    runs = itertools.chain(*([release] * count for release, count in releases.items()), itertools.repeat("v1"))
    return [worker(f"{names}{i}", release=release) for i, release in zip(range(size), runs, strict=False)]


def releases(routing: Routing, keys: list[str]) -> list[str]:
    return [owner.release for owner in routing.owners_many(keys)]


TARGETS = [(0.05, 0.02), (0.01, 0.10), (0.10, 0.02), (0.25, 0.02), (0.5, 0.02)]


def mean_share(share: float, keys_each: int) -> float:
    """The canary's mean share over 20 sets of names, with equally many keys each."""
    got = []
    for names in range(20):
        routing = Routing("embed", pool(f"set-{names}-", v2=1 + names % 5), canary(v2=share))
        keys = [f"tenant-{names}/user-{i}" for i in range(keys_each)]
        got.append(releases(routing, keys).count("v2") / len(keys))
    return sum(got) / len(got)


@pytest.mark.parametrize(
    ("share", "within"), [TARGETS[0], *(pytest.param(*one, marks=MORE_SEEDS) for one in TARGETS[1:])]
)
def test_a_canary_gets_its_share_whatever_its_workers_weigh(share: float, within: float) -> None:
    # A million keys in all. A share of 1 % of these has a standard error of 1 %.
    assert mean_share(share, 50_000) == pytest.approx(share, rel=within)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "within"), TARGETS)
def test_a_canary_gets_its_share_of_a_million_keys_for_each_set_of_names(share: float, within: float) -> None:
    assert mean_share(share, 1_000_000) == pytest.approx(share, rel=within)


@pytest.mark.parametrize("steps", [[0.0, 0.01, 0.05, 0.25, 0.5, 1.0]])
def test_raising_a_share_moves_keys_only_to_that_release(steps: list[float]) -> None:
    workers = pool(v2=3, v3=3)
    for others in ({}, {"v3": 0.1}):
        for before, after in itertools.pairwise(step for step in steps if step + sum(others.values()) <= 1):
            old = Routing("embed", workers, canary(**others, v2=before)).owners_many(USERS)
            new = Routing("embed", workers, canary(**others, v2=after)).owners_many(USERS)
            moved = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
            assert {b.release for _, b in moved} == {"v2"}
            assert len(moved) / len(USERS) == pytest.approx(after - before, rel=0.1)


@pytest.mark.parametrize("raised", ["v2", "v3"])
def test_of_candidates_side_by_side_each_gets_its_share_and_neither_takes_from_the_other(raised: str) -> None:
    workers = pool(v2=3, v3=3)
    shares = {"v2": 0.05, "v3": 0.10}
    old = Routing("embed", workers, canary(**shares))
    got = Counter(releases(old, USERS))
    for release, share in shares.items():
        assert got[release] / len(USERS) == pytest.approx(share, rel=0.05)
    new = Routing("embed", workers, canary(**shares | {raised: 0.4}))
    moved = {
        (a.release, b.release) for a, b in zip(old.owners_many(USERS), new.owners_many(USERS), strict=True) if a != b
    }
    assert moved == {("v1", raised)}


def test_a_candidate_that_joins_the_others_takes_keys_from_the_rest_only() -> None:
    workers = pool(v2=3, v3=3)
    old = Routing("embed", workers, canary(v2=0.05))
    new = Routing("embed", workers, canary(v2=0.05, v3=0.25))
    canaries = [(a.release, b.release) for a, b in zip(old.owners_many(USERS), new.owners_many(USERS), strict=True)]
    # Workers of v3 were among the rest before, so within the rest keys move to v1.
    assert {pair for pair in canaries if "v2" in pair} == {("v2", "v2")}
    assert Counter(b for _, b in canaries)["v3"] / len(USERS) == pytest.approx(0.25, rel=0.05)


def test_a_release_without_workers_loses_its_share_to_the_others_in_proportion() -> None:
    shares = canary(v2=0.3, v3=0.2, v4=0.1)
    workers = pool(v2=3, v3=3, v4=3)
    left = [w for w in workers if w.release != "v2"]
    old, new = Routing("embed", workers, shares), Routing("embed", left, shares)
    pairs = list(zip(old.owners_many(USERS), new.owners_many(USERS), strict=True))
    assert all(a == b for a, b in pairs if a.release != "v2")
    heirs = Counter(b.release for a, b in pairs if a.release == "v2")
    for release, share in {"v1": 0.4, "v3": 0.2, "v4": 0.1}.items():
        assert heirs[release] / heirs.total() == pytest.approx(share / 0.7, rel=0.1)
    assert {w.release for w in Routing("embed", pool(size=3, v2=3), shares).owners_many(USERS[:1000])} == {"v2"}


def test_a_share_of_nothing_gets_keys_only_when_nobody_else_lives() -> None:
    workers = pool(v2=3)
    assert set(releases(Routing("embed", workers, canary(v2=0.0)), USERS)) == {"v1"}
    assert set(releases(Routing("embed", workers, canary(v2=1.0)), USERS)) == {"v2"}
    assert set(releases(Routing("embed", workers[:3], canary(v2=0.0)), USERS)) == {"v2"}


def test_owners_of_the_release_come_first_and_everyone_else_behind_them() -> None:
    workers = pool(v2=4)
    routing = Routing("embed", workers, canary(v2=0.3))
    for key in USERS[:200]:
        order = routing.owners(key)
        assert sorted(names_of(order)) == sorted(names_of(workers))
        runs = [release for release, _ in itertools.groupby(owner.release for owner in order)]
        assert sorted(runs) == ["v1", "v2"]
        assert routing.owners(key, 6) == order[:6]
        assert routing.owners_many([key]) == order[:1]


shares = st.lists(st.builds(CanaryShare, st.sampled_from("abcdefgh"), st.sampled_from([0.0, 0.03, 0.2, 0.5, 2.0])))


@given(shares)
def test_shares_are_dealt_exactly_and_never_twice(canary_shares: list[CanaryShare]) -> None:
    gate = TrafficSplit(canary_shares)
    left = 10_000
    for release in dict.fromkeys(share.release for share in canary_shares):
        wanted = next(share.share for share in canary_shares if share.release == release)
        assert gate.shares[release] == min(round(wanted * 10_000), left)
        left -= gate.shares[release]
    assert gate.shares[None] == left
    assert sum(gate.shares.values()) == 10_000


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25]), max_size=4), st.integers(0, 3), st.sampled_from([0.05, 0.15, 0.25]))
def test_up_to_four_candidates_below_a_quarter_never_take_from_each_other(
    given: list[float], which: int, raised: float
) -> None:
    before = {f"v{i}": share for i, share in enumerate(given)}
    name = f"v{which}"
    if before.get(name, 1.0) > raised:
        return
    old = TrafficSplit(RoutingPolicy(canary=[CanaryShare(*pair) for pair in before.items()]).canary)
    new = TrafficSplit(RoutingPolicy(canary=[CanaryShare(*pair) for pair in (before | {name: raised}).items()]).canary)
    for slot in range(10_000):
        if old.group_of_slot(slot) != new.group_of_slot(slot):
            assert (old.group_of_slot(slot), new.group_of_slot(slot)) == (None, name)
