"""A store in this process: for one process, for tests, and where nothing else is at hand.

It ends with its process. So it hides no death, and two processes do not see each other's claims.

What is over is forgotten whenever something is added. Beyond `max_bytes`, the values and sessions that were used least
recently are forgotten, and a new claim is refused: forgetting a claim could run a call twice.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio

from rumormill.worker.errors import StoreUnavailableError
from rumormill.worker.stores import Abandoned, Claimed, ClaimRequest, ClaimState, Finished, Running

MAX_BYTES: Final = 64 * 1024 * 1024
"""Default limit for claims, and another for values and sessions. More keeps more answers in memory."""
OVERHEAD: Final = 500
"""Bytes that an entry takes beside its key and content, roughly."""


@dataclass(slots=True)
class _Claim:
    token: bytes
    fingerprint: bytes
    lease_ends: float
    expires: float
    attempt: int = 1
    result: bytes | None = None

    @property
    def size(self) -> int:
        return OVERHEAD + len(self.result or b"")


@dataclass(slots=True)
class _Entry:
    expires: float
    turns: dict[bytes, bytes] = field(default_factory=dict)
    """Values are a single turn without a name."""

    @property
    def size(self) -> int:
        return OVERHEAD + sum(map(len, self.turns.values()))


class SyncMemoryStore:
    """Everything in this process's memory. Threads may share it. No method waits."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_bytes` bounds the claims, and once more the values and sessions. `clock` gives seconds."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._claims: OrderedDict[bytes, _Claim] = OrderedDict()
        """Those that were touched last are at the end."""
        self._claim_bytes = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._entry_bytes = 0

    # Claims.

    def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        with self._lock:
            now = self._clock()
            held = self._live_claim(key, now)
            if held is None:
                self._add_claim(key, request, now)
                return Claimed(1)
            if held.result is not None:
                return Finished(held.fingerprint, held.result)
            if held.token == request.token:
                self._hold(key, held, request, now)
                return Claimed(held.attempt)
            if held.lease_ends > now:
                return Running(held.fingerprint)
            if not request.take_over or held.fingerprint != request.fingerprint:
                return Abandoned(held.fingerprint)
            held.token, held.attempt = request.token, held.attempt + 1
            self._hold(key, held, request, now)
            return Claimed(held.attempt)

    def renew(self, key: bytes, request: ClaimRequest) -> bool:
        with self._lock:
            now = self._clock()
            held = self._own_claim(key, request, now)
            if held is not None:
                self._hold(key, held, request, now)
            return held is not None

    def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        with self._lock:
            now = self._clock()
            held = self._own_claim(key, request, now)
            if held is not None:
                self._claim_bytes += len(result) - len(held.result or b"")
                held.result = result
                held.expires = now + request.window
                self._claims.move_to_end(key)
            return held is not None

    def release(self, key: bytes, request: ClaimRequest) -> bool:
        with self._lock:
            held = self._own_claim(key, request, self._clock())
            if held is not None:
                self._drop_claim(key)
            return held is not None

    def _live_claim(self, key: bytes, now: float) -> _Claim | None:
        held = self._claims.get(key)
        return held if held is not None and held.expires > now else None

    def _own_claim(self, key: bytes, request: ClaimRequest, now: float) -> _Claim | None:
        held = self._live_claim(key, now)
        return held if held is not None and held.token == request.token else None

    def _hold(self, key: bytes, held: _Claim, request: ClaimRequest, now: float) -> None:
        held.lease_ends, held.expires = now + request.lease, now + request.lease + request.window
        self._claims.move_to_end(key)

    def _add_claim(self, key: bytes, request: ClaimRequest, now: float) -> None:
        while self._claims and next(iter(self._claims.values())).expires <= now:
            self._drop_claim(next(iter(self._claims)))
        if key in self._claims:
            self._drop_claim(key)
        if self._claim_bytes + OVERHEAD > self._max_bytes:
            raise StoreUnavailableError(
                f"the store is full: {len(self._claims)} calls of the last window take {self._max_bytes} bytes; "
                "try again later, or give it a larger max_bytes"
            )
        ends = now + request.lease
        self._claims[key] = _Claim(request.token, request.fingerprint, ends, ends + request.window)
        self._claim_bytes += OVERHEAD

    def _drop_claim(self, key: bytes) -> None:
        self._claim_bytes -= self._claims.pop(key).size

    # Values and sessions.

    def get(self, key: bytes) -> tuple[bytes, float] | None:
        with self._lock:
            now = self._clock()
            entry = self._live_entry(b"value:" + key, now)
            return None if entry is None else (entry.turns[b""], entry.expires - now)

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        with self._lock:
            self._set_entry(b"value:" + key, _Entry(self._clock() + ttl, {b"": value}))

    def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        with self._lock:
            now = self._clock()
            before = self._live_entry(b"session:" + key, now)
            turns = {**(before.turns if before is not None else {}), turn_id: turn}
            self._set_entry(b"session:" + key, _Entry(now + ttl, dict(list(turns.items())[-keep:])))

    def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        with self._lock:
            entry = self._live_entry(b"session:" + key, self._clock())
            return [] if entry is None else list(entry.turns.items())

    def _live_entry(self, key: bytes, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= now:
            self._drop_entry(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def _set_entry(self, key: bytes, entry: _Entry) -> None:
        if key in self._entries:
            self._drop_entry(key)
        if entry.size > self._max_bytes:
            return
        while self._entries and self._entry_bytes + entry.size > self._max_bytes:
            self._drop_entry(next(iter(self._entries)))
        self._entries[key] = entry
        self._entry_bytes += entry.size

    def _drop_entry(self, key: bytes) -> None:
        self._entry_bytes -= self._entries.pop(key).size


class MemoryStore:
    """The same for asynchronous callers. It serves one event loop."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        """`max_bytes` bounds the claims, and once more the values and sessions."""
        self._store = SyncMemoryStore(max_bytes=max_bytes, clock=anyio.current_time)

    async def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        return self._store.claim(key, request)

    async def renew(self, key: bytes, request: ClaimRequest) -> bool:
        return self._store.renew(key, request)

    async def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        return self._store.finish(key, request, result)

    async def release(self, key: bytes, request: ClaimRequest) -> bool:
        return self._store.release(key, request)

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        return self._store.get(key)

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        self._store.put(key, value, ttl)

    async def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        self._store.append(key, turn_id, turn, keep, ttl)

    async def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        return self._store.turns(key)
