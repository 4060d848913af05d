"""Claims a call in a store, holds the claim while the call runs, and keeps its result. For threads.

A thread cannot be stopped from outside. So a call whose claim is lost runs on, and its result is not kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rumormill.worker.claim_rules import Claim, ClaimRules, Poll, new_request, next_step
from rumormill.worker.claims import RENEWALS_PER_LEASE, RETRIES_PER_LEASE, as_current
from rumormill.worker.errors import ClaimLostError, StoreUnavailableError
from rumormill.worker.stores import Claimed, Finished, SyncClaimStore


def acquire(store: SyncClaimStore, rules: ClaimRules, key: bytes, fingerprint: bytes) -> Claim | bytes:
    """Own the call, or get the result that it has. Waits while another owner runs it. Raises EffectError."""
    request = new_request(rules, fingerprint)
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        match next_step(store.claim(key, request), request, rules, asked - began):
            case Claimed(attempt):
                return Claim(key, request, attempt, held_until=asked + rules.lease)
            case Finished(result=result):
                return result
            case Poll(delay):
                time.sleep(delay)


@contextmanager
def held(store: SyncClaimStore, rules: ClaimRules, claim: Claim) -> Iterator[None]:
    """Renew the claim in another thread while the block runs."""
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, rules, claim, ended), name="rumormill-claim", daemon=True)
    renewer.start()
    try:
        with as_current(claim):
            yield
    finally:
        ended.set()
        renewer.join()


def finish(store: SyncClaimStore, rules: ClaimRules, claim: Claim, result: bytes) -> bool:
    """Keep the result. Returns False if the store did not answer as long as the claim held.

    Raises :class:`ClaimLostError` if another owner has the call.
    """
    return _conclude(claim, rules, lambda: store.finish(claim.key, claim.request, result))


def release(store: SyncClaimStore, rules: ClaimRules, claim: Claim) -> bool:
    """Forget the claim, so that the next call with its key is run. Returns and raises as :func:`finish`."""
    return _conclude(claim, rules, lambda: store.release(claim.key, claim.request))


def _conclude(claim: Claim, rules: ClaimRules, step: Callable[[], bool]) -> bool:
    while True:
        try:
            done = step()
        except StoreUnavailableError:
            if time.monotonic() >= claim.held_until:
                return False
            time.sleep(rules.lease / RETRIES_PER_LEASE)
            continue
        if not done:
            raise ClaimLostError("another worker took this call over; call again with the same key for its result")
        return True


def _renew(store: SyncClaimStore, rules: ClaimRules, claim: Claim, ended: threading.Event) -> None:
    delay = rules.lease / RENEWALS_PER_LEASE
    while not ended.wait(delay):
        asked = time.monotonic()
        try:
            if not store.renew(claim.key, claim.request):
                return
        except StoreUnavailableError:
            delay = rules.lease / RETRIES_PER_LEASE
        else:
            claim.held_until, delay = asked + rules.lease, rules.lease / RENEWALS_PER_LEASE
