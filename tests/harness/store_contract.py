"""What every store has to do, as stories that a test tells with its own store and its own way to let time pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rumormill.worker.stores import (
    Abandoned,
    Claimed,
    ClaimRequest,
    Finished,
    Running,
    SyncClaimStore,
    SyncTurnStore,
    SyncValueStore,
)

Wait = Callable[[float], None]
LEASE, WINDOW = 1000.0, 2000.0
"""Seconds, so long that only `wait` can end them."""


def request(token: str, fingerprint: bytes = b"same", *, take_over: bool = True) -> ClaimRequest:
    return ClaimRequest(token.encode(), fingerprint, LEASE, WINDOW, take_over)


def first_claim_wins(store: SyncClaimStore, wait: Wait) -> None:
    first, second = request("first"), request("second")
    assert store.claim(b"k", first) == Claimed(1)
    assert store.claim(b"k", first) == Claimed(1), "a repeated question has the same answer"
    assert store.claim(b"k", second) == Running(b"same")
    assert store.claim(b"another", second) == Claimed(1)
    assert not store.finish(b"k", second, b"not mine")
    assert store.finish(b"k", first, b"done")
    assert store.claim(b"k", second) == Finished(b"same", b"done")
    assert store.claim(b"k", replace(second, fingerprint=b"other")) == Finished(b"same", b"done")
    wait(WINDOW + 1)
    wait(LEASE)
    assert store.claim(b"k", second) == Claimed(1), "after the window it is forgotten"


def renewed_claim_is_kept(store: SyncClaimStore, wait: Wait) -> None:
    first, second = request("first"), request("second")
    store.claim(b"k", first)
    for _ in range(3):
        wait(0.6 * LEASE)
        assert store.renew(b"k", first)
    assert store.claim(b"k", second) == Running(b"same")
    assert not store.renew(b"k", second)


def dead_owner_is_followed_and_fenced(store: SyncClaimStore, wait: Wait) -> None:
    first, second = request("first"), request("second")
    store.claim(b"k", first)
    wait(LEASE + 1)
    assert store.claim(b"k", request("third", b"other")) == Abandoned(b"same"), "another call never takes over"
    assert store.claim(b"k", second) == Claimed(2)
    assert not store.renew(b"k", first)
    assert not store.finish(b"k", first, b"late")
    assert not store.release(b"k", first)
    assert store.claim(b"k", first) == Running(b"same")
    assert store.finish(b"k", second, b"done")
    assert not store.finish(b"k", first, b"later still")
    assert store.claim(b"k", first) == Finished(b"same", b"done")


def late_owner_that_nobody_followed_may_finish(store: SyncClaimStore, wait: Wait) -> None:
    first = request("first")
    store.claim(b"k", first)
    wait(LEASE + 1)
    assert store.finish(b"k", first, b"late")
    assert store.claim(b"k", request("second")) == Finished(b"same", b"late")


def abandoned_call_is_not_run_at_most_once(store: SyncClaimStore, wait: Wait) -> None:
    store.claim(b"k", request("first", take_over=False))
    wait(LEASE + 1)
    second = request("second", take_over=False)
    assert store.claim(b"k", second) == Abandoned(b"same")
    assert store.claim(b"k", second) == Abandoned(b"same"), "asking changes nothing"
    wait(WINDOW + 1)
    assert store.claim(b"k", second) == Claimed(1)


def released_claim_is_forgotten(store: SyncClaimStore, wait: Wait) -> None:
    store.claim(b"k", request("first"))
    assert store.release(b"k", request("first"))
    assert store.claim(b"k", request("second", b"other")) == Claimed(1)


def last_turns_are_kept_in_order(store: SyncTurnStore, wait: Wait) -> None:
    names = [bytes([n]) * 16 for n in range(5)]
    assert store.turns(b"s") == []
    for n, name in enumerate(names):
        store.append(b"s", name, b"turn %d" % n, 3, LEASE)
    assert store.turns(b"s") == [(names[2], b"turn 2"), (names[3], b"turn 3"), (names[4], b"turn 4")]
    store.append(b"s", names[3], b"said again", 3, LEASE)
    said = [turn for _, turn in store.turns(b"s")]
    assert said == [b"turn 2", b"said again", b"turn 4"], "a repeated turn is replaced in its place"
    store.append(b"t", names[0], b"another session", 3, 9 * LEASE)
    assert store.turns(b"t") == [(names[0], b"another session")]
    wait(LEASE + 1)
    assert store.turns(b"s") == []


def values_live_as_long_as_they_may(store: SyncValueStore, wait: Wait) -> None:
    assert store.get(b"v") is None
    store.put(b"v", b"one", LEASE)
    store.put(b"v", b"two", LEASE)
    found = store.get(b"v")
    assert found is not None
    assert found[0] == b"two"
    assert 0 < found[1] <= LEASE
    wait(LEASE + 1)
    assert store.get(b"v") is None


CLAIMS = (
    first_claim_wins,
    renewed_claim_is_kept,
    dead_owner_is_followed_and_fenced,
    late_owner_that_nobody_followed_may_finish,
    abandoned_call_is_not_run_at_most_once,
    released_claim_is_forgotten,
)
OTHERS = (last_turns_are_kept_in_order, values_live_as_long_as_they_may)
