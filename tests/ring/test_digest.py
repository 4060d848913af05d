"""Equal routing digests mean equal owners, in equal order, for every key and every caller's zone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ring_pools import any_policy, any_pool, names_of

from rumormill.ring import Routing, RoutingPolicy, Worker

KEYS_EACH = 100
SWAPPED = {"alive": "suspect", "suspect": "alive", "passing": "warning", "warning": "passing"}

stories = (any_pool, any_policy, any_pool, any_policy, st.integers(0, 2**32))


def told_otherwise(workers: list[Worker], rng: random.Random) -> list[Worker]:
    """The same workers as another sidecar may list them: in another order, with other values that routing ignores."""
    told = [
        msgspec.structs.replace(
            worker,
            liveness=SWAPPED.get(worker.liveness, worker.liveness) if rng.random() < 0.5 else worker.liveness,
            readiness=SWAPPED.get(worker.readiness, worker.readiness) if rng.random() < 0.5 else worker.readiness,
            utilization=rng.choice([None, rng.random()]),
            tags={"gpu": str(rng.random())},
            since=str(rng.random()),
        )
        for worker in workers
    ]
    rng.shuffle(told)
    return told


def keys(rng: random.Random) -> Iterator[str]:
    return (f"{rng.getrandbits(64):x}" for _ in range(KEYS_EACH))


def check(workers: list[Worker], policy: RoutingPolicy, former: list[Worker], before: RoutingPolicy, seed: int) -> None:
    """A hundred triples of members, policy and key. One side computes from scratch, the other from an earlier ring."""
    rng = random.Random(seed)
    here = Routing("embed", workers, policy)
    renumbered = msgspec.structs.replace(policy, index=policy.index + 1)
    there = Routing("embed", former, before).updated(told_otherwise(workers, rng), renumbered)
    assert here.digest == there.digest
    zone = rng.choice([None, None, "", "a", "b"])
    for key in keys(rng):
        assert names_of(here.walk(key, zone=zone)) == names_of(there.walk(key, zone=zone))
    assert names_of(here.workers) == names_of(there.workers)


@given(*stories)
def test_equal_digests_mean_equal_owners(workers, policy, former, before, seed) -> None:
    check(workers, policy, former, before, seed)


@pytest.mark.slow
@settings(max_examples=1_000_000 // KEYS_EACH, suppress_health_check=list(HealthCheck))
@given(*stories)
def test_equal_digests_mean_equal_owners_for_a_million_triples(workers, policy, former, before, seed) -> None:
    check(workers, policy, former, before, seed)
