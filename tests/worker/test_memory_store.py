"""The store in this process does what every store has to do, and stays within its bounds."""

from __future__ import annotations

import pytest
from store_contract import CLAIMS, LEASE, OTHERS, WINDOW, request

from rumormill.worker import StoreUnavailableError, SyncMemoryStore
from rumormill.worker.memory_store import OVERHEAD
from rumormill.worker.stores import Claimed, Finished


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("story", [*CLAIMS, *OTHERS])
def test_it_keeps_the_contract_of_stores(story) -> None:
    clock = Clock()
    story(SyncMemoryStore(clock=clock), clock.wait)


def test_a_full_store_refuses_claims_and_forgets_none() -> None:
    clock = Clock()
    store = SyncMemoryStore(max_bytes=3 * OVERHEAD, clock=clock)
    for n in range(3):
        assert store.claim(b"%d" % n, request(f"owner {n}")) == Claimed(1)
    with pytest.raises(StoreUnavailableError, match="the store is full: 3 calls"):
        store.claim(b"one more", request("late"))
    assert store.finish(b"0", request("owner 0"), b"done")
    assert store.claim(b"0", request("late")) == Finished(b"same", b"done")
    clock.wait(LEASE + WINDOW)
    assert store.claim(b"one more", request("late")) == Claimed(1), "what is over makes room"


def test_results_count_towards_the_bound() -> None:
    store = SyncMemoryStore(max_bytes=4 * OVERHEAD, clock=Clock())
    store.claim(b"a", request("owner"))
    store.finish(b"a", request("owner"), bytes(3 * OVERHEAD))
    with pytest.raises(StoreUnavailableError):
        store.claim(b"b", request("owner"))


def test_values_and_sessions_make_room_for_newer_ones_the_least_used_first() -> None:
    store = SyncMemoryStore(max_bytes=3 * (OVERHEAD + 100), clock=Clock())
    for name in (b"a", b"b", b"c"):
        store.put(name, bytes(100), 60.0)
    store.get(b"a")
    store.append(b"s", bytes(16), bytes(100), 10, 60.0)
    assert store.get(b"b") is None
    assert store.get(b"a") is not None
    assert store.turns(b"s") == [(bytes(16), bytes(100))]
    store.put(b"huge", bytes(10_000), 60.0)
    assert store.get(b"huge") is None
    assert store.get(b"a") is not None, "what can never fit pushes nothing out"
