"""The last turns of a conversation, kept where every worker finds them. Any worker goes on when one has died.

    sessions = Sessions(RedisStore.from_url("redis://10.0.0.5:6379"))
    history = await sessions.turns(session_id, before=request_id)
    await sessions.append(session_id, {"user": prompt, "assistant": answer}, turn_id=request_id)

A turn is made of None, bool, int, float, str, bytes, list and dict. Give each turn a `turn_id` that a repeated request
has too, such as its `Idempotency-Key`: the repeat then replaces the turn and does not add a second one. With `before`,
it also finds the same history as the first, which may have added its turn before its worker died.
"""

from __future__ import annotations

import hashlib
from dataclasses import KW_ONLY, dataclass
from secrets import token_bytes
from typing import Any, Generic, TypeVar

import msgspec

from rumormill.worker.stores import SyncTurnStore, TurnStore

StoreT = TypeVar("StoreT")


class TurnTooLongError(ValueError):
    """A turn is longer than the limit, and was not kept."""


@dataclass(frozen=True)
class _SessionOptions(Generic[StoreT]):
    store: StoreT
    _: KW_ONLY
    keep: int = 10
    """How many turns are kept."""
    ttl: float = 3600.0
    """Seconds without a turn after which a session is forgotten."""
    max_turn: int = 64 * 1024
    """Bytes of one turn. With `keep`, this bounds a session."""

    def __post_init__(self) -> None:
        if self.keep < 1 or self.ttl <= 0:
            raise ValueError(f"keep={self.keep} and ttl={self.ttl} keep nothing; give both more than 0")

    @property
    def _stored(self) -> int:
        """One more than is given, so that a turn that is repeated has as many before it."""
        return self.keep + 1

    def _history(self, pairs: list[tuple[bytes, bytes]], before: str | bytes | None) -> list[Any]:
        name = None if before is None else _turn_name(before)
        place = next((index for index, (turn_name, _) in enumerate(pairs) if turn_name == name), len(pairs))
        return [msgspec.msgpack.decode(turn) for _, turn in pairs[:place][-self.keep :]]

    def _encoded(self, turn: object) -> bytes:
        encoded = msgspec.msgpack.encode(turn)
        if len(encoded) > self.max_turn:
            raise TurnTooLongError(
                f"the turn has {len(encoded)} bytes and may have {self.max_turn}; shorten it, or raise max_turn"
            )
        return encoded


class Sessions(_SessionOptions[TurnStore]):
    """The sessions of a service, for asynchronous workers."""

    async def append(self, session_id: str | bytes, turn: object, *, turn_id: str | bytes | None = None) -> None:
        """Add a turn to the end, or replace the one with this `turn_id`.

        Raises :class:`TurnTooLongError` and StoreUnavailableError.
        """
        encoded = self._encoded(turn)
        await self.store.append(_bytes(session_id), _turn_name(turn_id), encoded, self._stored, self.ttl)

    async def turns(self, session_id: str | bytes, *, before: str | bytes | None = None) -> list[Any]:
        """The last turns, the oldest first: with `before`, those before this turn. Raises StoreUnavailableError."""
        return self._history(await self.store.turns(_bytes(session_id)), before)


class SyncSessions(_SessionOptions[SyncTurnStore]):
    """The same for threads."""

    def append(self, session_id: str | bytes, turn: object, *, turn_id: str | bytes | None = None) -> None:
        """Add a turn to the end, or replace the one with this `turn_id`.

        Raises :class:`TurnTooLongError` and StoreUnavailableError.
        """
        self.store.append(_bytes(session_id), _turn_name(turn_id), self._encoded(turn), self._stored, self.ttl)

    def turns(self, session_id: str | bytes, *, before: str | bytes | None = None) -> list[Any]:
        """The last turns, the oldest first: with `before`, those before this turn. Raises StoreUnavailableError."""
        return self._history(self.store.turns(_bytes(session_id)), before)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _turn_name(turn_id: str | bytes | None) -> bytes:
    """16 bytes that name a turn."""
    return token_bytes(16) if turn_id is None else hashlib.blake2b(_bytes(turn_id), digest_size=16).digest()
