"""Claims a call in a store, holds the claim while the call runs, and keeps its result. For asynchronous callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

import anyio

from rumormill.worker.claim_rules import Claim, ClaimRules, Poll, new_request, next_step
from rumormill.worker.errors import ClaimLostError, StoreUnavailableError
from rumormill.worker.stores import Claimed, ClaimStore, Finished

T = TypeVar("T")

STORE_TIMEOUT: Final = 5.0
"""Seconds that any store has for one answer."""
RENEWALS_PER_LEASE: Final = 3
RETRIES_PER_LEASE: Final = 20
"""How often a store that fails is asked again within a lease."""

_current: ContextVar[Claim | None] = ContextVar("rumormill_claim", default=None)


def current_claim() -> Claim | None:
    """The claim under which this code runs. None outside the middleware and the decorators, or without a key."""
    return _current.get()


@contextmanager
def as_current(claim: Claim) -> Iterator[None]:
    """What :func:`current_claim` returns inside the block."""
    reset = _current.set(claim)
    try:
        yield
    finally:
        _current.reset(reset)


async def acquire(store: ClaimStore, rules: ClaimRules, key: bytes, fingerprint: bytes) -> Claim | bytes:
    """Own the call, or get the result that it has. Waits while another owner runs it. Raises EffectError."""
    request = new_request(rules, fingerprint)
    began = anyio.current_time()
    while True:
        asked = anyio.current_time()
        state = await _ask(lambda: store.claim(key, request))
        match next_step(state, request, rules, asked - began):
            case Claimed(attempt):
                return Claim(key, request, attempt, held_until=asked + rules.lease)
            case Finished(result=result):
                return result
            case Poll(delay):
                await anyio.sleep(delay)


async def run_held(store: ClaimStore, rules: ClaimRules, claim: Claim, work: Callable[[], Awaitable[T]]) -> T:
    """Run the call and renew its claim meanwhile. The work is cancelled if the claim is lost.

    Raises :class:`ClaimLostError` then, and the work's own errors.
    """
    error: Exception | None = None
    results: list[T] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_renew, store, rules, claim, tasks.cancel_scope)
        try:
            with as_current(claim):
                results.append(await work())
        except Exception as raised:
            error = raised
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error
    if not results:
        raise ClaimLostError(
            "this worker did not reach the store in time to keep the call, and another may run it now; "
            "send the same request again for its answer"
        )
    return results[0]


async def finish(store: ClaimStore, rules: ClaimRules, claim: Claim, result: bytes) -> bool:
    """Keep the result. Returns False if the store did not answer as long as the claim held.

    Raises :class:`ClaimLostError` if another owner has the call.
    """
    return await _conclude(claim, rules, lambda: store.finish(claim.key, claim.request, result))


async def release(store: ClaimStore, rules: ClaimRules, claim: Claim) -> bool:
    """Forget the claim, so that the next call with its key is run. Returns and raises as :func:`finish`."""
    return await _conclude(claim, rules, lambda: store.release(claim.key, claim.request))


async def _conclude(claim: Claim, rules: ClaimRules, step: Callable[[], Awaitable[bool]]) -> bool:
    claim.conclude()  # a renewal that fails must not cancel this
    while True:
        try:
            done = await _ask(step)
        except StoreUnavailableError:
            if anyio.current_time() >= claim.held_until:
                return False
            await anyio.sleep(rules.lease / RETRIES_PER_LEASE)
            continue
        if not done:
            raise ClaimLostError("another worker took this call over; send the same request again for its answer")
        return True


async def _renew(store: ClaimStore, rules: ClaimRules, claim: Claim, scope: anyio.CancelScope) -> None:
    """Renew the claim until it is over. Cancel the scope when it is lost, or may be."""
    delay = rules.lease / RENEWALS_PER_LEASE
    while True:
        await anyio.sleep(delay)
        asked = anyio.current_time()
        if claim.is_over():
            return
        try:
            with anyio.fail_after(max(claim.held_until - asked, 0)):
                held = await _ask(lambda: store.renew(claim.key, claim.request))
        except (StoreUnavailableError, TimeoutError):
            held = None
        if claim.is_over():
            return
        if held:
            claim.held_until, delay = asked + rules.lease, rules.lease / RENEWALS_PER_LEASE
        elif held is False or anyio.current_time() >= claim.held_until:
            scope.cancel()
            return
        else:
            delay = rules.lease / RETRIES_PER_LEASE


async def _ask(question: Callable[[], Awaitable[T]]) -> T:
    try:
        with anyio.fail_after(STORE_TIMEOUT):
            return await question()
    except TimeoutError as error:
        raise StoreUnavailableError(f"the store did not answer within {STORE_TIMEOUT:g} s; nothing was run") from error
