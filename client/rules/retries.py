"""The state of one request: which workers were tried, and what a failure means for the request. Pure.

The rules:

- An attempt that failed before anything was sent is free: the next worker is tried, whatever the request.
- A refusal (503, 429) came before the worker acted, so the next worker is tried, whatever the request. After a failure
  (500, 502, 504) the next is tried if the request is replayable. If no worker is left, or the retry budget is empty,
  the caller gets the last such answer.
- An attempt that failed after sending is followed by another only if the request is replayable. Otherwise the caller
  gets an error that says so.
- The caller's own timeout ends the request, unless another attempt is still running. So does a local error that occurs
  twice: the request is then malformed, or there are no file descriptors to send it with.
- A replayable request may have up to three attempts running at once (hedges). Each worker is tried at most once.
- The first answer wins. The other attempts are cancelled.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import httpx2

from rumormill.client.rules.response_class import AnswerVerdict, ResponseClass
from rumormill.client.runtime.descriptors import TooManyOpenFilesError
from rumormill.ring.worker import Worker

MAX_RUNNING = 3
ATTEMPTS = "rumormill_attempts"
"""A response's extensions hold the attempts at its request under this name. A list under this name in a request's
extensions gets each attempt as it begins."""


class RetryDecision(enum.Enum):
    """What to do after a failed attempt."""

    TRY_NEXT = enum.auto()
    """Try the next worker now."""
    AWAIT_RUNNING = enum.auto()
    """Wait for another attempt, which is still running."""
    NOT_REPLAYABLE = enum.auto()
    """Raise an error that says why the request was not sent again."""
    RAISE = enum.auto()
    """Raise the attempt's error as it is: it is the caller's own timeout or mistake."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt brought no answer."""

    what: str
    sent: bool
    """Whether the worker may have received the whole request."""
    cause: Exception | None = None
    caller_timeout: bool = False
    """One of the caller's own timeouts expired."""
    local_error: bool = False
    """This process did not send the request: it is malformed, this connection is unusable, or no file descriptor is
    free."""
    status: int | None = None
    """The status of the answer, if there was one and another worker was asked."""
    verdict: AnswerVerdict | None = None
    """What the hook `classify` said about that answer."""

    @property
    def by_limit(self) -> bool:
        """The old name of `caller_timeout`, kept for one version."""
        return self.caller_timeout

    @property
    def refused_here(self) -> bool:
        """The old name of `local_error`, kept for one version."""
        return self.local_error


@dataclass(slots=True, eq=False)
class Attempt:
    """One request sent to one worker. Times are on the pool's clock, in seconds."""

    worker: Worker
    began: float
    hedge: bool = False
    """It began while an earlier attempt was still running."""
    failure: Failure | None = None
    running: bool = True

    def __str__(self) -> str:
        if self.failure is None:
            return f"{self.worker.name}: {'running' if self.running else 'cancelled, another attempt was quicker'}"
        return f"{self.worker.name}: {self.failure.what} ({'after' if self.failure.sent else 'before'} it was sent)"


class RequestState:
    """The attempts at one request."""

    def __init__(self, title: str, not_replayable_reason: str | None, *, one_shot: bool = False) -> None:
        """`title` is for people ("POST /v1/embeddings"). `not_replayable_reason` is None for a replayable request.

        The body of a `one_shot` request cannot be sent twice, not even after a refusal.
        """
        self.title = title
        self.not_replayable_reason = not_replayable_reason
        self.one_shot = one_shot
        self.attempts: list[Attempt] = []
        self.tried: set[str] = set()
        """URLs and not names: several sidecars may name one worker, which is tried once all the same."""
        self.hedging_exhausted = False
        """No worker is left to hedge with."""

    @property
    def running(self) -> int:
        """How many attempts are running."""
        return sum(attempt.running for attempt in self.attempts)

    @property
    def may_hedge(self) -> bool:
        return self.not_replayable_reason is None and not self.hedging_exhausted and 0 < self.running < MAX_RUNNING

    def begin_attempt(self, worker: Worker, now: float) -> Attempt:
        """Start an attempt at this worker."""
        attempt = Attempt(worker, now, hedge=self.running > 0)
        self.attempts.append(attempt)
        self.tried.add(worker.url)
        return attempt

    def is_retryable(self, response_class: ResponseClass) -> bool:
        """Whether to ask another worker after an answer of this class."""
        if self.one_shot or not response_class.retryable:
            return False
        return self.not_replayable_reason is None or not response_class.may_have_acted

    def record_retryable_answer(self, attempt: Attempt, status: int, verdict: AnswerVerdict | None) -> None:
        """An attempt brought an answer that the caller gets only if no other worker gives a better one."""
        what = f"answered {status}" if verdict is None else f"answered {status}, classified as {verdict.name}"
        attempt.failure, attempt.running = Failure(what, sent=True, status=status, verdict=verdict), False

    def record_failure(self, attempt: Attempt, failure: Failure) -> RetryDecision:
        """An attempt failed. Returns what to do now."""
        attempt.failure, attempt.running = failure, False
        if failure.caller_timeout:
            return RetryDecision.AWAIT_RUNNING if self.running else RetryDecision.RAISE
        local_errors = sum(a.failure is not None and a.failure.local_error for a in self.attempts)
        if failure.local_error and (failure.sent or local_errors > 1):
            return RetryDecision.AWAIT_RUNNING if self.running else RetryDecision.RAISE
        if failure.sent and self.not_replayable_reason is not None:
            return RetryDecision.NOT_REPLAYABLE
        return RetryDecision.TRY_NEXT

    @property
    def request_error(self) -> Exception | None:
        """The local error that ended the request, if one did."""
        last = self.attempts[-1].failure if self.attempts else None
        return last.cause if last is not None and last.local_error else None

    def finish(self, winner: Attempt) -> list[Attempt]:
        """One attempt was answered. Returns the attempts that were still running and are now to be cancelled."""
        winner.running = False
        overtaken = [attempt for attempt in self.attempts if attempt.running]
        for attempt in overtaken:
            attempt.running = False
        return overtaken


def failure_of(error: Exception, *, sent: bool) -> Failure | None:
    """What an error of the HTTP transport says about the attempt. None if the worker has not failed.

    Errors raised by the caller's own body stream belong to the caller, who gets them as they are. A connection that
    broke before anything was read counts as sent: from here, a worker that died before reading the request looks like
    one that died after acting on it.
    """
    what = str(error).rstrip(".") or type(error).__name__
    match error:
        case httpx2.ConnectTimeout():
            return Failure("connection timed out", sent=False, cause=error)
        case TooManyOpenFilesError():
            return Failure(what, sent=False, cause=error, local_error=True)
        case httpx2.ConnectError() | httpx2.PoolTimeout() | httpx2.UnsupportedProtocol() | httpx2.ProxyError():
            return Failure(what, sent=False, cause=error)
        case httpx2.TimeoutException():
            kind = type(error).__name__
            return Failure(f"{kind}: the caller's own timeout", sent=sent, cause=error, caller_timeout=True)
        case httpx2.LocalProtocolError():
            return Failure(what, sent=sent, cause=error, local_error=True)
        case httpx2.TransportError():
            return Failure(what, sent=sent, cause=error)
        case _:
            return None
