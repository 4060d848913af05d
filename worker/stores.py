"""What a store has to do: claims of calls, the last turns of sessions, and cached answers.

Each part takes only the protocol that it needs. Keys are bytes of any length, values are bytes, and times are seconds.
Every method raises :class:`StoreUnavailableError` if the store cannot do it. Repeating a method with the same arguments
is safe: a connection that breaks may lose the reply and not the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Claimed:
    """The caller now owns the call and runs it."""

    attempt: int
    """How many owners the call has had, this one included. More than 1: an earlier owner died, and may have acted."""


@dataclass(frozen=True, slots=True)
class Running:
    """Another owner runs the call and renews its lease."""

    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The owner's lease has run out without a result. The claim was left as it is."""

    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The call has a result."""

    fingerprint: bytes
    result: bytes


ClaimState = Claimed | Running | Abandoned | Finished


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Asks for a call. The `token` names the owner: only it may renew, finish or release the claim."""

    token: bytes
    fingerprint: bytes
    """A digest of the whole call, kept beside the key."""
    lease: float
    """Seconds for which the claim holds unless it is renewed."""
    window: float
    """Seconds for which the store remembers the call after the last renewal, and then its result."""
    take_over: bool
    """Whether to claim a call whose owner's lease has run out."""


class SyncClaimStore(Protocol):
    """Claims of calls. Every method is atomic."""

    def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        """Own the call if nobody does. A claim with another fingerprint is never taken over."""

    def renew(self, key: bytes, request: ClaimRequest) -> bool:
        """Hold the claim for another lease. False if another owner has it, or it is forgotten."""

    def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        """Keep the result for a window. False, and nothing is changed, if another owner has the claim."""

    def release(self, key: bytes, request: ClaimRequest) -> bool:
        """Forget the claim, so that the next call with this key is run. False if another owner has it."""


class ClaimStore(Protocol):
    """The same for asynchronous callers."""

    async def claim(self, key: bytes, request: ClaimRequest) -> ClaimState:
        """See :class:`SyncClaimStore`."""

    async def renew(self, key: bytes, request: ClaimRequest) -> bool:
        """See :class:`SyncClaimStore`."""

    async def finish(self, key: bytes, request: ClaimRequest, result: bytes) -> bool:
        """See :class:`SyncClaimStore`."""

    async def release(self, key: bytes, request: ClaimRequest) -> bool:
        """See :class:`SyncClaimStore`."""


class SyncTurnStore(Protocol):
    """The last turns of sessions."""

    def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        """Add a turn, and forget all but the last `keep`. A turn that is there already is replaced in its place.

        `turn_id` has 16 bytes. The session is forgotten after `ttl` seconds without another turn.
        """

    def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        """The turns, the oldest first, each after its `turn_id`."""


class TurnStore(Protocol):
    """The same for asynchronous callers."""

    async def append(self, key: bytes, turn_id: bytes, turn: bytes, keep: int, ttl: float) -> None:
        """See :class:`SyncTurnStore`."""

    async def turns(self, key: bytes) -> list[tuple[bytes, bytes]]:
        """See :class:`SyncTurnStore`."""


class SyncValueStore(Protocol):
    """Values that may be forgotten at any time."""

    def get(self, key: bytes) -> tuple[bytes, float] | None:
        """The value and the seconds that it has left."""

    def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep the value for at most `ttl` seconds."""


class ValueStore(Protocol):
    """The same for asynchronous callers."""

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        """See :class:`SyncValueStore`."""

    async def put(self, key: bytes, value: bytes, ttl: float) -> None:
        """See :class:`SyncValueStore`."""
