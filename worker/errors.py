"""Why a call was not run, or its result not kept. Each has the HTTP status that the middleware answers with.

    EffectError
    ├── BadKeyError            400  the key is missing where it is required, or is too long
    ├── StillRunningError      409  the first request with this key is still running
    ├── OutcomeUnknownError    409  its worker died, and `at_most_once` forbids to run it again
    ├── AnswerNotKeptError     409  it was answered, and the answer was too long to keep
    ├── ClaimLostError         409  another worker took the call over while this one was silent
    ├── BodyTooLongError       413  a request with a key must fit the limit, because its body is compared
    ├── KeyReusedError         422  the key came with another request
    └── StoreUnavailableError  503  the store cannot be asked, so nothing was run

The statuses for keys are those of the IETF draft "The Idempotency-Key HTTP Header Field".
"""

from __future__ import annotations

from typing import ClassVar


class EffectError(Exception):
    """The call was not run, or its answer cannot be given. The text says what to do next."""

    status: ClassVar[int] = 500
    name: ClassVar[str] = "effect-error"
    """Names the problem for programs."""
    retry_after: ClassVar[int | None] = None
    """Seconds after which the same request may be sent again."""


class BadKeyError(EffectError):
    """The key is missing where it is required, or is too long."""

    status, name = 400, "bad-key"


class StillRunningError(EffectError):
    """The first call with this key is still running, and the time to wait for it is over."""

    status, name, retry_after = 409, "still-running", 1


class OutcomeUnknownError(EffectError):
    """The worker that ran the call died. It may have acted or not."""

    status, name = 409, "unknown-outcome"


class AnswerNotKeptError(EffectError):
    """The call has been run and answered, and the answer was too long to keep."""

    status, name = 409, "answer-not-kept"


class ClaimLostError(EffectError):
    """This worker was silent for longer than its lease, and another has taken the call over."""

    status, name, retry_after = 409, "claim-lost", 1


class BodyTooLongError(EffectError):
    """The request has a key, and its body is longer than the limit."""

    status, name = 413, "body-too-long"


class KeyReusedError(EffectError):
    """The key was used for another request."""

    status, name = 422, "key-reused"


class StoreUnavailableError(EffectError):
    """The store cannot be asked, or cannot be trusted yet. The call was not run."""

    status, name, retry_after = 503, "store-unavailable", 1
