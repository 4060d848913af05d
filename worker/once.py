"""Decorators that run a function once for a key, however often and on however many workers it is called.

    once = Once(RedisStore.from_url("redis://10.0.0.5:6379"))

    @once.by(lambda order: f"charge:{order['id']}")
    async def charge(order): ...

The rules are those of the middleware (idempotency.py). Results are kept as MessagePack, so they are made of None, bool,
int, float, str, bytes, list and dict. A tuple comes back as a list.

A function that raises may have acted. So the failure is kept, and a repeat raises :class:`CallFailedError`. Exceptions
named in `nothing_done` say that nothing was done: the next call with the key is run.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

import msgspec

from rumormill.worker import sync_claims
from rumormill.worker.claim_rules import Claim, ClaimRules, checked_key
from rumormill.worker.claims import acquire, finish, release, run_held
from rumormill.worker.errors import EffectError
from rumormill.worker.memory_store import MemoryStore, SyncMemoryStore
from rumormill.worker.stores import ClaimStore, SyncClaimStore

P = ParamSpec("P")
T = TypeVar("T")

Exceptions = tuple[type[Exception], ...]


class CallFailedError(EffectError):
    """The function was called with this key, and raised. It is not called again within the window."""

    status: ClassVar[int] = 500
    name: ClassVar[str] = "failed"


class Once:
    """Makes decorators for asynchronous functions."""

    def __init__(self, store: ClaimStore | None = None, *, rules: ClaimRules | None = None) -> None:
        """Without a `store`, claims live in this process."""
        self._store: ClaimStore = MemoryStore() if store is None else store
        self._rules = ClaimRules() if rules is None else rules

    def by(
        self, key: Callable[P, str | bytes], *, nothing_done: Exceptions = ()
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """`key` gets the arguments of a call and gives its key. The decorated function raises EffectError."""

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
            @functools.wraps(function)
            async def once(*args: P.args, **kwargs: P.kwargs) -> T:
                name = _key(key(*args, **kwargs))
                owned = await acquire(self._store, self._rules, name, _fingerprint(function, args, kwargs))
                if not isinstance(owned, Claim):
                    return cast("T", _result(owned))
                return await run_held(self._store, self._rules, owned, lambda: run(owned, *args, **kwargs))

            async def run(claim: Claim, *args: P.args, **kwargs: P.kwargs) -> T:
                try:
                    result = await function(*args, **kwargs)
                    kept = _encoded(result)
                except nothing_done:
                    await release(self._store, self._rules, claim)
                    raise
                except Exception as error:
                    await finish(self._store, self._rules, claim, _encoded_failure(error))
                    raise
                await finish(self._store, self._rules, claim, kept)
                return result

            return once

        return decorate


class SyncOnce:
    """Makes decorators for functions that threads call."""

    def __init__(self, store: SyncClaimStore | None = None, *, rules: ClaimRules | None = None) -> None:
        """Without a `store`, claims live in this process."""
        self._store: SyncClaimStore = SyncMemoryStore() if store is None else store
        self._rules = ClaimRules() if rules is None else rules

    def by(
        self, key: Callable[P, str | bytes], *, nothing_done: Exceptions = ()
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """`key` gets the arguments of a call and gives its key. The decorated function raises EffectError."""

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            @functools.wraps(function)
            def once(*args: P.args, **kwargs: P.kwargs) -> T:
                name = _key(key(*args, **kwargs))
                owned = sync_claims.acquire(self._store, self._rules, name, _fingerprint(function, args, kwargs))
                if not isinstance(owned, Claim):
                    return cast("T", _result(owned))
                with sync_claims.held(self._store, self._rules, owned):
                    return run(owned, *args, **kwargs)

            def run(claim: Claim, *args: P.args, **kwargs: P.kwargs) -> T:
                try:
                    result = function(*args, **kwargs)
                    kept = _encoded(result)
                except nothing_done:
                    sync_claims.release(self._store, self._rules, claim)
                    raise
                except Exception as error:
                    sync_claims.finish(self._store, self._rules, claim, _encoded_failure(error))
                    raise
                sync_claims.finish(self._store, self._rules, claim, kept)
                return result

            return once

        return decorate


def _key(key: str | bytes) -> bytes:
    return checked_key(key.encode() if isinstance(key, str) else key)


def _fingerprint(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A digest of the call. Arguments that cannot be encoded, such as connections, count by their type."""
    call = (function.__module__, function.__qualname__, args, sorted(kwargs.items()))
    encoded = msgspec.msgpack.encode(call, enc_hook=lambda value: type(value).__qualname__, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _encoded(result: object) -> bytes:
    return msgspec.msgpack.encode([True, result])


def _encoded_failure(error: Exception) -> bytes:
    return msgspec.msgpack.encode([False, f"{type(error).__name__}: {error}"[:1000]])


def _result(encoded: bytes) -> Any:
    succeeded, result = msgspec.msgpack.decode(encoded)
    if not succeeded:
        raise CallFailedError(f"the first call with this key failed ({result}); it may have acted or not")
    return result
