"""What the state of a claim means for a call. Pure.

- A call that nobody has claimed is run by whoever claims it first.
- A call that is running is waited for. When the time for that is over, the caller is told that it is still running.
- A call that has a result is answered with it.
- A call whose owner's lease has run out is taken over. With `at_most_once`, its outcome is unknown instead.
- The same key with another call is refused, whatever the state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Final, assert_never

from rumormill.worker.errors import BadKeyError, KeyReusedError, OutcomeUnknownError, StillRunningError
from rumormill.worker.stores import Abandoned, Claimed, ClaimRequest, ClaimState, Finished, Running

MAX_KEY_BYTES: Final = 255
"""Longest key. UUIDs have 36."""
SHORTEST_POLL, LONGEST_POLL = 0.01, 0.25
"""Seconds between two looks at a running call, a quarter of the time waited so far. More finds its result later; less
asks the store more often."""


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """How claims are made and held. Seconds."""

    window: float = 60.0
    """For how long a result is kept. Callers must not repeat a request later than this."""
    lease: float = 10.0
    """For how long a claim holds without renewal. It is renewed three times as often. More delays the takeover of a
    dead worker's calls; less takes calls over from workers that were only held up, which may run them twice."""
    wait: float = 30.0
    """For how long a duplicate waits for the first call."""
    at_most_once: bool = False
    """Never run a call again whose owner died. Its outcome is then unknown until the window has passed."""

    def __post_init__(self) -> None:
        if not 0 < self.lease <= self.window:
            raise ValueError(
                f"lease={self.lease} and window={self.window} do not fit: "
                "the lease must be longer than 0 s and no longer than the window"
            )
        if self.wait < 0:
            raise ValueError(f"wait={self.wait} is negative; give the seconds that a duplicate may wait, or 0")


@dataclass(slots=True, eq=False)
class Claim:
    """A call that this worker owns and runs."""

    key: bytes
    request: ClaimRequest
    attempt: int
    """How many owners the call has had. More than 1: an earlier owner died, and may have acted. Numbers only grow, so
    an effect's own storage can refuse what carries a lower number than it has seen."""
    held_until: float
    """When the lease ends, on this process's clock."""
    _over: bool = field(default=False, init=False)

    @property
    def taken_over(self) -> bool:
        """Whether an earlier owner died while it ran the call."""
        return self.attempt > 1

    def conclude(self) -> None:
        """The call has ended, and its claim needs no renewal."""
        self._over = True

    def is_over(self) -> bool:
        return self._over


@dataclass(frozen=True, slots=True)
class Poll:
    """Look again after this many seconds."""

    delay: float


def new_request(rules: ClaimRules, fingerprint: bytes) -> ClaimRequest:
    """A request for a claim, with a token of its own."""
    return ClaimRequest(token_bytes(16), fingerprint, rules.lease, rules.window, take_over=not rules.at_most_once)


def next_step(state: ClaimState, request: ClaimRequest, rules: ClaimRules, waited: float) -> Claimed | Finished | Poll:
    """What to do now. `waited` is for how long the call has been waited for. Raises EffectError."""
    match state:
        case Claimed():
            return state
        case Running() | Abandoned() | Finished() if state.fingerprint != request.fingerprint:
            raise KeyReusedError("this key was used for another request; give every request a key of its own")
        case Finished():
            return state
        case Abandoned():
            raise OutcomeUnknownError(
                "the worker that ran this died, and it may have acted or not; look whether it did before you send it "
                f"with another key. This key is answered so for {rules.window:g} s"
            )
        case Running():
            if waited >= rules.wait:
                raise StillRunningError("the first request with this key is still running; send it again later")
            return Poll(min(max(waited / 4, SHORTEST_POLL), LONGEST_POLL, rules.wait - waited))
        case _:
            assert_never(state)


def checked_key(key: bytes) -> bytes:
    """The key. Raises :class:`BadKeyError`."""
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise BadKeyError(f"the key has {len(key)} bytes; give 1 to {MAX_KEY_BYTES}, such as a UUID")
    return key
