"""Functions that run once for their key, in tasks and in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from rumormill.worker import (
    CallFailedError,
    ClaimLostError,
    ClaimRules,
    KeyReusedError,
    MemoryStore,
    Once,
    OutcomeUnknownError,
    SyncMemoryStore,
    SyncOnce,
    current_claim,
)
from rumormill.worker.stores import ClaimRequest


class PriceUnknown(Exception):
    pass


def by_id(order: dict[str, Any], *_: object) -> str:
    return str(order["id"])


async def test_a_repeat_returns_the_first_result(autojump_clock) -> None:
    calls = []

    @Once().by(by_id)
    async def charge(order: dict[str, Any], connection: object) -> dict[str, Any]:
        """Take the money."""
        calls.append(order)
        await anyio.sleep(1)
        return {"charge": len(calls), "raw": b"\x00"}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(charge, {"id": 1, "sum": 5}, object())
        tasks.start_soon(charge, {"id": 1, "sum": 5}, object())
    assert await charge({"sum": 5, "id": 1}, object()) == {"charge": 1, "raw": b"\x00"}
    assert len(calls) == 1
    assert charge.__doc__ == "Take the money."
    with pytest.raises(KeyReusedError):
        await charge({"id": 1, "sum": 6}, object())


async def test_one_key_may_not_serve_two_functions(autojump_clock) -> None:
    once = Once()

    @once.by(by_id)
    async def charge(order: dict[str, Any]) -> int:
        return 1

    @once.by(by_id)
    async def refund(order: dict[str, Any]) -> int:
        return -1

    await charge({"id": 1})
    with pytest.raises(KeyReusedError):
        await refund({"id": 1})


async def test_a_failure_is_kept_unless_it_says_that_nothing_was_done(autojump_clock) -> None:
    failures: list[Exception] = [PriceUnknown("later"), ValueError("half done")]

    @Once().by(by_id, nothing_done=(PriceUnknown,))
    async def charge(order: dict[str, Any]) -> None:
        raise failures.pop(0)

    with pytest.raises(PriceUnknown):
        await charge({"id": 1})
    with pytest.raises(ValueError, match="half done"):
        await charge({"id": 1})
    with pytest.raises(CallFailedError, match="ValueError: half done"):
        await charge({"id": 1})


async def test_at_most_once_a_death_leaves_the_outcome_unknown(autojump_clock) -> None:
    @Once(MemoryStore(), rules=ClaimRules(at_most_once=True)).by(by_id)
    async def charge(order: dict[str, Any]) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(1):
        await charge({"id": 1})
    with pytest.raises(OutcomeUnknownError):
        await charge({"id": 1})


def in_threads(call: Callable[[], object], times: int) -> list[object]:
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_wait_for_the_first_of_them() -> None:
    calls = []

    @SyncOnce().by(by_id)
    def charge(order: dict[str, Any]) -> int:
        claim = current_claim()
        assert claim is not None
        calls.append(claim.attempt)
        time.sleep(0.05)
        return len(calls)

    assert in_threads(lambda: charge({"id": 1}), 5) == [1] * 5
    assert calls == [1]
    assert current_claim() is None


def test_in_threads_failures_are_kept_too() -> None:
    failures: list[Exception] = [PriceUnknown("later"), ValueError("half done")]

    @SyncOnce().by(by_id, nothing_done=(PriceUnknown,))
    def charge(order: dict[str, Any]) -> None:
        raise failures.pop(0)

    for expected in (PriceUnknown, ValueError, CallFailedError):
        with pytest.raises(expected):
            charge({"id": 1})


class Counting(SyncMemoryStore):
    """Tells when it has renewed a claim, and can give it to another owner."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed = threading.Event()

    def renew(self, key: bytes, request: ClaimRequest) -> bool:
        held = super().renew(key, request)
        self.renewed.set()
        return held


def test_a_thread_renews_the_claim_of_a_long_call() -> None:
    store = Counting()

    @SyncOnce(store, rules=ClaimRules(lease=0.3)).by(by_id)
    def charge(order: dict[str, Any]) -> bool:
        return store.renewed.wait(60)

    assert charge({"id": 1})


def test_a_thread_whose_claim_was_lost_is_told_and_its_result_is_not_kept() -> None:
    store = Counting()

    @SyncOnce(store).by(by_id)
    def charge(order: dict[str, Any]) -> int:
        claim = current_claim()
        assert claim is not None
        store.release(claim.key, claim.request)
        return 1

    with pytest.raises(ClaimLostError):
        charge({"id": 1})
