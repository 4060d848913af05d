"""How a caller refines the ring's order: zones, canaries without keys, bounded load, slow start."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate
from typing import Any

import msgspec
import pytest

from rumormill.client.discovery.topology import Topology, nothing_known, with_answer
from rumormill.client.selection.admission import ADJUST_EVERY
from rumormill.client.selection.worker_selector import WorkerSelector
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring import CanaryShare, Routing, RoutingPolicy, Worker
from rumormill.ring.admission import (
    FREE_SLOTS,
    MIN_FRACTION,
    SLOW_START_SECONDS,
    WARNING_FRACTION,
    admit_fraction_by_utilization,
    request_limit,
    utilization_bound,
)

USERS = [f"user-{i}" for i in range(4000)]


def worker(name: str, **changes: Any) -> Worker:
    instance = name.encode().hex().ljust(32, "0")
    plain = Worker(name, 1, instance, "embed", f"http://{name}", "a", "v1", 1.0, "alive", "passing", None, {}, "")
    return msgspec.structs.replace(plain, **changes)


def pool(count: int, **changes: Any) -> list[Worker]:
    return [worker(f"w{i}", **changes) for i in range(count)]


def heard(before: Topology, workers: list[Worker], policy: RoutingPolicy | None = None, now: float = 0.0) -> Topology:
    policy = policy or RoutingPolicy()
    answer = WorkersAnswer("prod", "embed", 1, "p", Routing("embed", workers).digest, False, policy, workers)
    return with_answer(before, answer, source="s", origin="sidecar", now=now)


class Caller:
    """A selector that is given one list after another."""

    def __init__(self, workers: list[Worker], policy: RoutingPolicy | None = None, **settings: Any) -> None:
        self.selector = WorkerSelector("embed", random.Random(0), **settings)
        self.policy = policy
        self.selector.update(heard(nothing_known("embed"), workers, policy), 0.0)

    def hear(self, workers: list[Worker], now: float) -> None:
        self.selector.update(heard(self.selector.topology, workers, self.policy, now), now)

    def names(self, now: float, keys: list[str] | list[None] = USERS) -> list[str]:
        """The worker picked for each key, one request at a time."""
        picked = [self.selector.pick(key, (), now) for key in keys]
        return [worker.name for worker in picked if worker is not None]


def first_owners(workers: list[Worker]) -> list[str]:
    return [owner.name for owner in Routing("embed", workers).owners_many(USERS)]


# Bounded load by own requests.


def zipf(count: int, requests: int, **settings: Any) -> tuple[float, float]:
    """Hot keys, 20 requests in flight per worker: the busiest over the mean, and the share at the first owner."""
    rng = random.Random(7)
    selector = Caller(pool(count), **settings).selector
    popularity = list(accumulate(rank**-1.1 for rank in range(1, 100_001)))
    under_way: list[Worker] = []
    served: Counter[str] = Counter()
    first = 0
    for number in rng.choices(range(100_000), cum_weights=popularity, k=requests):
        if len(under_way) >= 20 * count:
            ended = rng.randrange(len(under_way))
            under_way[ended], under_way[-1] = under_way[-1], under_way[ended]
            selector.end_request(under_way.pop())
        chosen = selector.pick(f"session-{number}", (), 0.0)
        assert chosen is not None
        selector.begin_request(chosen)
        under_way.append(chosen)
        served[chosen.name] += 1
        first += chosen is selector.owners(f"session-{number}", 1)[0]
    return max(served.values()) * count / requests, first / requests


def test_hot_keys_are_bounded_and_most_requests_stay_at_their_first_owner() -> None:
    busiest, first = zipf(50, 40_000)
    assert busiest <= 1.3
    assert first >= 0.7
    unbounded, all_of_them = zipf(50, 40_000, bounded=False)
    assert unbounded >= 5
    assert all_of_them == 1.0


@pytest.mark.parametrize("total", [0, 1, 7, 50, 1000])
@pytest.mark.parametrize("first", [True, False])
def test_some_worker_always_has_room(total: int, first: bool) -> None:
    weights = [0.001, 0.5, 1.0, 1.0, 3.0]
    assert sum(request_limit(total, weight, sum(weights), first=first) for weight in weights) > total


def test_a_few_requests_at_once_stay_with_their_key_and_its_owner_is_asked_again_when_one_ends() -> None:
    caller = Caller(pool(20))
    (owner, second) = caller.selector.owners("k", 2)
    for _ in range(FREE_SLOTS):
        assert caller.selector.pick("k", (), 0.0) is owner
        caller.selector.begin_request(owner)
    assert caller.selector.pick("k", (), 0.0) is second
    caller.selector.end_request(owner)
    assert caller.selector.pick("k", (), 0.0) is owner


def test_a_canary_keeps_its_share_under_load_however_few_its_workers_are() -> None:
    workers = [*pool(19), worker("canary", release="v2")]
    selector = Caller(workers, RoutingPolicy(canary=[CanaryShare("v2", 0.25)])).selector
    served = Counter()
    for key in USERS[:1000]:
        chosen = selector.pick(key, (), 0.0)
        assert chosen is not None
        selector.begin_request(chosen)
        served[chosen.release] += 1
    assert served["v2"] == sum(o.release == "v2" for o in selector.topology.routing.owners_many(USERS[:1000]))
    assert served["v2"] / 1000 == pytest.approx(0.25, rel=0.1)


# Bounded load by gossiped utilization.


def test_utilization_above_the_bound_moves_a_fraction_of_the_keys_on_and_always_the_same_ones() -> None:
    busy = [worker("w0", utilization=0.9), *(worker(f"w{i}", utilization=0.3) for i in range(1, 10))]
    caller = Caller(busy)
    first = first_owners(busy)
    bound = utilization_bound([(1.0, 0.9), (9.0, 0.3)])
    assert bound == pytest.approx(0.46)
    once = caller.names(0.0)
    kept = [name for name, owner in zip(once, first, strict=True) if owner == "w0"]
    assert kept.count("w0") / len(kept) == pytest.approx(bound / 0.9, abs=0.06)
    assert all(name == owner for name, owner in zip(once, first, strict=True) if owner != "w0")
    assert caller.names(0.0) == once
    # The same figure changes nothing at once. A second later it says that the fraction is still too large.
    caller.hear(busy, ADJUST_EVERY / 2)
    assert caller.names(ADJUST_EVERY / 2) == once
    caller.hear(busy, ADJUST_EVERY)
    less = caller.names(ADJUST_EVERY)
    assert {o for o, a, b in zip(first, once, less, strict=True) if a != b} == {"w0"}
    assert less.count("w0") < 0.8 * once.count("w0")
    calm = [msgspec.structs.replace(one, utilization=0.3) for one in busy]
    for second in range(2, 8):
        caller.hear(calm, second * ADJUST_EVERY)
    assert caller.names(8 * ADJUST_EVERY) == first


@pytest.mark.parametrize("work", [0.4, 1.0, 3.0])
def test_the_admitted_fraction_settles_where_the_load_is_at_the_bound(work: float) -> None:
    part = 1.0
    for _ in range(50):
        part = admit_fraction_by_utilization(part, work * part, 0.5)
    assert work * part == pytest.approx(min(0.5, work), rel=0.01)
    assert admit_fraction_by_utilization(MIN_FRACTION, 1.0, 0.01) == MIN_FRACTION


def test_an_idle_pool_moves_no_key() -> None:
    idle = [worker("w0", utilization=0.1), *(worker(f"w{i}", utilization=0.01) for i in range(1, 10))]
    assert Caller(idle).names(0.0) == first_owners(idle)


def test_own_requests_do_not_count_if_utilization_is_known_and_no_load_counts_without_bounded_load() -> None:
    known = pool(5, utilization=0.5)
    caller = Caller(known)
    unbounded = Caller([worker("w0", utilization=0.99), *pool(5)[1:]], bounded=False)
    for selector in (caller.selector, unbounded.selector):
        for _ in range(100):
            selector.begin_request(selector.owners("k", 1)[0])
        assert selector.pick("k", (), 0.0) is selector.owners("k", 1)[0]
    assert unbounded.names(0.0) == first_owners(known)


# Slow start.


def test_a_new_worker_takes_over_its_keys_within_half_a_minute_and_gives_none_back() -> None:
    old, new = pool(9), pool(10)
    caller = Caller(old)
    before, after = first_owners(old), first_owners(new)
    caller.hear(new, 100.0)
    own = after.count("w9")
    taken: set[int] = set()
    for age, part in [(0.0, 0.1), (3.0, 0.1), (15.0, 0.5), (27.0, 0.9), (SLOW_START_SECONDS, 1.0)]:
        now = caller.names(100.0 + age)
        assert all(name in (a, b) for name, a, b in zip(now, before, after, strict=True))
        has = {index for index, name in enumerate(now) if name == "w9"}
        assert taken <= has
        assert len(has) / own == pytest.approx(part, abs=0.06)
        taken = has
    assert now == after


def test_slow_start_spares_the_first_list_and_workers_whose_sidecar_restarted() -> None:
    workers = pool(5)
    caller = Caller(workers)
    assert caller.names(0.0) == first_owners(workers)
    restarted = [worker("w0", instance="f" * 32, generation=2), *workers[1:]]
    caller.hear(restarted, 10.0)
    assert caller.names(10.0) == first_owners(workers)


def test_a_recovered_worker_starts_slowly_and_a_pool_of_only_new_workers_is_still_used() -> None:
    workers = pool(5)
    caller = Caller(workers)
    caller.hear([msgspec.structs.replace(workers[0], readiness="critical"), *workers[1:]], 10.0)
    caller.hear(workers, 20.0)
    assert 0 < caller.names(20.0).count("w0") < 0.2 * first_owners(workers).count("w0")
    others = [worker(f"x{i}") for i in range(5)]
    caller.hear(others, 60.0)
    assert set(caller.names(60.0)) == {other.name for other in others}
    unkeyed = Caller(pool(4))
    unkeyed.hear(pool(5), 100.0)
    nobody: list[None] = [None] * 2000
    assert 0 < unkeyed.names(100.0, nobody).count("w4") < 100 < 300 < unkeyed.names(130.0, nobody).count("w4")


# Slow workers.


def test_a_slow_worker_keeps_half_of_its_keys_and_gets_the_others_back() -> None:
    workers = pool(10)
    caller = Caller(workers)
    first = first_owners(workers)
    slow = [msgspec.structs.replace(workers[0], readiness="warning"), *workers[1:]]
    caller.hear(slow, 10.0)
    now = caller.names(10.0)
    own = [name for name, owner in zip(now, first, strict=True) if owner == "w0"]
    assert own.count("w0") / len(own) == pytest.approx(WARNING_FRACTION, abs=0.06)
    assert all(name == owner for name, owner in zip(now, first, strict=True) if owner != "w0")
    routing = Routing("embed", slow)
    seconds = [routing.owners(key, 2)[1].name for key in USERS]
    assert all(name in (a, b) for name, a, b in zip(now, first, seconds, strict=True))
    unkeyed: list[None] = [None] * 4000
    assert Counter(caller.names(10.0, unkeyed))["w0"] / 400 == pytest.approx(WARNING_FRACTION, abs=0.15)
    caller.hear(workers, 20.0)
    assert caller.names(20.0) == first


def test_if_all_are_slow_no_key_moves() -> None:
    slow = pool(10, readiness="warning")
    assert Caller(slow).names(0.0) == first_owners(slow)


# Zones and releases, with and without a key.


@pytest.mark.parametrize("keys", [USERS, [None] * 4000], ids=["keyed", "unkeyed"])
def test_a_caller_prefers_its_zone_and_spills_in_proportion(keys: Any) -> None:
    workers = [worker(f"{zone}{i}", zone=zone) for zone in "ab" for i in range(4)]
    assert {name[0] for name in Caller(workers, zone="b").names(0.0, keys)} == {"b"}
    assert {name[0] for name in Caller(workers, RoutingPolicy(zone="a")).names(0.0, keys)} == {"a"}
    assert {name[0] for name in Caller(workers, RoutingPolicy(zone="a"), zone="").names(0.0, keys)} == {"a", "b"}
    lost = Counter(name[0] for name in Caller(workers[2:], zone="a").names(0.0, keys))
    # Two workers are left where three were expected: 1.25 * 2/3 of the keys stay.
    assert lost["a"] / lost.total() == pytest.approx(1.25 * 2 / 3, abs=0.03)
    assert {name[0] for name in Caller(workers, zone="elsewhere").names(0.0, keys)} == {"a", "b"}


@pytest.mark.parametrize("keys", [USERS, [None] * 4000], ids=["keyed", "unkeyed"])
def test_a_canary_gets_its_share_of_requests(keys: Any) -> None:
    workers = [*pool(9), worker("canary", release="v2")]
    served = Caller(workers, RoutingPolicy(canary=[CanaryShare("v2", 0.3)])).names(0.0, keys)
    assert served.count("canary") / len(served) == pytest.approx(0.3, rel=0.1)
    alone = Caller(workers[:9], RoutingPolicy(canary=[CanaryShare("v2", 0.3)])).names(0.0, keys)
    assert len(set(alone)) == 9


@pytest.mark.parametrize("share", [0.05, 0.25])
@pytest.mark.parametrize("keyed", [True, False])
def test_over_many_requests_a_canary_gets_its_share_within_a_twentieth(share: float, keyed: bool) -> None:
    workers = [*pool(4), worker("c0", release="v2"), worker("c1", release="v2")]
    caller = Caller(workers, RoutingPolicy(canary=[CanaryShare("v2", share)]))
    keys: Any = [f"tenant/user-{n}" if keyed else None for n in range(20_000)]
    served = sum(name.startswith("c") for name in caller.names(0.0, keys))
    # The keys and the seed are fixed, so this holds always or never.
    assert served / len(keys) == pytest.approx(share, rel=0.05)
