"""One request's way through the pool: who has been tried, and what a failure means for it. Pure.

The rules:

- An attempt that failed before anything was sent costs nothing: on to the next worker, whatever the request.
- A refusal (503, 429) came before the worker acted, so it leads to the next worker whatever the request; a failure
  (500, 502, 504) leads there if the request is replayable. When nobody is left to ask, or the budget for retries is
  spent, the last such answer is the caller's.
- One that failed after sending goes on only if the request is replayable; else the caller is told so.
- The caller's own time limit ends the request, unless another attempt is still running; so does a request that our
  own side twice refuses to send, which is then malformed, or there are no descriptors to send it with.
- A replayable request may have up to three attempts running at once (hedges); each worker is tried once at most.
- Whoever answers first has answered; the others are cancelled.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import httpx

from rumormill.client.answers import Judgement
from rumormill.client.descriptors import TooManyOpenFilesError
from rumormill.ring.worker import Worker

MAX_RUNNING = 3
ATTEMPTS = "rumormill_attempts"
"""In a response's extensions, the attempts at its request. A list under this name in a request's extensions gets each
attempt as it begins."""


class RetryDecision(enum.Enum):
    """What a failed attempt calls for."""

    NEXT = enum.auto()
    """Try the next worker now."""
    WAIT = enum.auto()
    """Another attempt is running; let it."""
    NOT_REPLAYABLE = enum.auto()
    AS_IT_IS = enum.auto()
    """The caller's own limit or mistake: raise the error as it is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt brought no answer."""

    what: str
    sent: bool
    """Whether the worker may have got the request whole."""
    cause: Exception | None = None
    by_limit: bool = False
    """One of the caller's own time limits ran out."""
    refused_here: bool = False
    """Our own side would not send it: the request is malformed, this one connection is in no state to, or there is no
    descriptor for one."""
    status: int | None = None
    """What the worker answered, where it did and another was asked."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One worker asked once. Times on the pool's clock, in seconds."""

    worker: Worker
    began: float
    hedge: bool = False
    """Begun while an earlier attempt was still running."""
    failure: Failure | None = None
    running: bool = True

    def __str__(self) -> str:
        if self.failure is None:
            return f"{self.worker.name}: {'running' if self.running else 'given up for another'}"
        return f"{self.worker.name}: {self.failure.what} ({'after' if self.failure.sent else 'before'} it was sent)"


class RequestState:
    """The state of one request."""

    def __init__(self, title: str, unreplayable: str | None, *, one_shot: bool = False) -> None:
        """`title` is for people ("POST /v1/embeddings"); `unreplayable` says why it must not be sent twice, if so.

        The body of a `one_shot` request cannot be sent twice, whoever refused it.
        """
        self.title = title
        self.unreplayable = unreplayable
        self._one_shot = one_shot
        self.attempts: list[Attempt] = []
        self.tried: set[str] = set()
        """URLs: one worker is tried once, however many sidecars name it."""
        self.no_more_hedges = False
        """Set when nobody is left to hedge with."""

    @property
    def running(self) -> int:
        return sum(attempt.running for attempt in self.attempts)

    @property
    def may_hedge(self) -> bool:
        return self.unreplayable is None and not self.no_more_hedges and 0 < self.running < MAX_RUNNING

    def begin(self, worker: Worker, now: float) -> Attempt:
        """An attempt at this worker begins."""
        attempt = Attempt(worker, now, hedge=self.running > 0)
        self.attempts.append(attempt)
        self.tried.add(worker.url)
        return attempt

    def asks_another(self, judgement: Judgement) -> bool:
        """Whether an answer of which this is held is reason to ask another worker."""
        if self._one_shot or not judgement.ask_another:
            return False
        return self.unreplayable is None or not judgement.acted

    def refuse(self, attempt: Attempt, status: int) -> None:
        """An attempt was answered in a way that is the caller's only if no other worker does better."""
        attempt.failure, attempt.running = Failure(f"answered {status}", sent=True, status=status), False

    def fail(self, attempt: Attempt, failure: Failure) -> RetryDecision:
        """An attempt failed: what now?"""
        attempt.failure, attempt.running = failure, False
        if failure.by_limit:
            return RetryDecision.WAIT if self.running else RetryDecision.AS_IT_IS
        refusals = sum(a.failure is not None and a.failure.refused_here for a in self.attempts)
        if failure.refused_here and (failure.sent or refusals > 1):
            return RetryDecision.WAIT if self.running else RetryDecision.AS_IT_IS
        if failure.sent and self.unreplayable is not None:
            return RetryDecision.NOT_REPLAYABLE
        return RetryDecision.NEXT

    @property
    def mistake(self) -> Exception | None:
        """The error that says what is wrong with the request itself, if that is how it ended."""
        last = self.attempts[-1].failure if self.attempts else None
        return last.cause if last is not None and last.refused_here else None

    def settle(self, winner: Attempt) -> list[Attempt]:
        """One attempt was answered. Returns those that were still running, which nobody waits for any more."""
        winner.running = False
        losers = [attempt for attempt in self.attempts if attempt.running]
        for loser in losers:
            loser.running = False
        return losers


def failure_of(error: Exception, *, sent: bool) -> Failure | None:
    """What an error of the HTTP transport says about the attempt; None if it is no failure of the worker.

    An error out of the caller's own body stream is the caller's, and goes back as it is. A connection that broke while
    nothing had been read is held to have been sent: from here, a worker that died before reading and one that died
    after acting look the same.
    """
    what = str(error).rstrip(".") or type(error).__name__
    match error:
        case httpx.ConnectTimeout():
            return Failure("no connection in time", sent=False, cause=error)
        case TooManyOpenFilesError():
            return Failure(what, sent=False, cause=error, refused_here=True)
        case httpx.ConnectError() | httpx.PoolTimeout() | httpx.UnsupportedProtocol() | httpx.ProxyError():
            return Failure(what, sent=False, cause=error)
        case httpx.TimeoutException():
            return Failure(f"{type(error).__name__}: the caller's own limit", sent=sent, cause=error, by_limit=True)
        case httpx.LocalProtocolError():
            return Failure(what, sent=sent, cause=error, refused_here=True)
        case httpx.TransportError():
            return Failure(what, sent=sent, cause=error)
        case _:
            return None
