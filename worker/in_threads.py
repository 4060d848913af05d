"""Makes an asynchronous store of a synchronous one, whose calls then run in worker threads. On trio and asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import anyio.to_thread

from rumormill.worker.stores import ClaimRequest, ClaimState, SyncClaimStore, SyncTurnStore, SyncValueStore

T = TypeVar("T")


class SyncStore(SyncClaimStore, SyncTurnStore, SyncValueStore, Protocol):
    """A store that can do everything."""


class InThreads:
    """A :class:`ClaimStore`, :class:`TurnStore` and :class:`ValueStore` on a synchronous store.

    A call whose caller is cancelled goes on in its thread, and nobody waits for it. So `store` must bound its own
    calls, as :meth:`SyncRedisStore.from_url` does.
    """

    def __init__(self, store: SyncStore) -> None:
        self._store = store

    async def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        return await _run(lambda: self._store.claim(key, request))

    async def renew(self, key: bytes, request: ClaimRequest) -> bool:
        return await _run(lambda: self._store.renew(key, request))

    async def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        return await _run(lambda: self._store.finish(key, request, result))

    async def release(self, key: bytes, request: ClaimRequest) -> bool:
        return await _run(lambda: self._store.release(key, request))

    async def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        await _run(lambda: self._store.append(key, turn_id, turn, keep, ttl))

    async def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        return await _run(lambda: self._store.turns(key))

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        return await _run(lambda: self._store.get(key))

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        await _run(lambda: self._store.put(key, value, ttl))


async def _run(call: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
