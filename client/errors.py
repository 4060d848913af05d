"""What can go wrong for a caller. All of it is what httpx, and what is built on httpx, already catches.

    httpx.TransportError
    ├── httpx.ConnectError
    │   └── TooManyOpenFilesError       this process is out of file descriptors; no worker is to blame (descriptors.py)
    └── PoolError                       the pool's own words
        ├── NoWorkersError              nobody to ask, or everybody asked could not be reached or died
        ├── RequestNotReplayableError   one worker got the request and failed; sending it again is not allowed
        └── ResponseInterruptedError    part of the answer had already reached the caller when its worker failed

A caller's own time limits stay what they are (`httpx.ReadTimeout` and its kin), and so do mistakes in a request
(`httpx.LocalProtocolError`) and errors raised by the caller's own body stream.
"""

from __future__ import annotations

import httpx

from rumormill.client.retries import Attempt, Failure, RequestState
from rumormill.client.topology import Topology
from rumormill.ring.worker import Worker

_SHOWN = 8


class PoolError(httpx.TransportError):
    """Something the pool has to say about a request. `topology` is what it believed at that moment."""

    def __init__(self, message: str, *, topology: Topology, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(message)
        self.topology = topology
        self.attempts = attempts
        """Who was tried, in order, and how each of them failed."""


class NoWorkersError(PoolError):
    """Nobody answered: the pool has no worker for the service, or each of them was tried once and failed."""


class RequestNotReplayableError(PoolError):
    """A worker may have acted on the request and did not answer; it was not sent to another, and `reason` says why."""

    def __init__(
        self, message: str, *, topology: Topology, attempts: tuple[Attempt, ...], worker: Worker, reason: str
    ) -> None:
        super().__init__(message, topology=topology, attempts=attempts)
        self.worker = worker
        self.reason = reason


class ResponseInterruptedError(PoolError):
    """The worker failed in mid-answer, after the caller had been given the beginning of it."""

    def __init__(self, message: str, *, topology: Topology, worker: Worker) -> None:
        super().__init__(message, topology=topology)
        self.worker = worker


def no_workers(course: RequestState | None, topology: Topology, now: float) -> NoWorkersError:
    """Nobody to ask, or nobody left; with the topology in it."""
    if course is None or not course.attempts:
        asked = f"no worker of service {topology.service!r} to ask"
        hint = "" if topology.workers else "; is the service's name right, and are its sidecars up?"
    else:
        tried = "; ".join(map(str, course.attempts[:_SHOWN]))
        more = f"; and {len(course.attempts) - _SHOWN} more" if len(course.attempts) > _SHOWN else ""
        asked = f"{course.title} was answered by no worker of service {topology.service!r}: {tried}{more}"
        hint = ""
    attempts = tuple(course.attempts) if course is not None else ()
    error = NoWorkersError(f"{asked}. {topology.describe(now)}{hint}", topology=topology, attempts=attempts)
    error.__cause__ = next((a.failure.cause for a in reversed(attempts) if a.failure), None)
    return error


def not_replayable(
    course: RequestState, attempt: Attempt, failure: Failure, topology: Topology, now: float
) -> RequestNotReplayableError:
    """What was sent to whom, how it ended, and why it was not sent again."""
    worker, reason = attempt.worker, course.unreplayable or ""
    error = RequestNotReplayableError(
        f"{course.title} was sent to {worker.name} ({worker.url}) {now - attempt.began:.3f} s ago, which then failed: "
        f"{failure.what}. It may have acted on it, and it was not sent to another: {reason}",
        topology=topology,
        attempts=tuple(course.attempts),
        worker=worker,
        reason=reason,
    )
    error.__cause__ = failure.cause
    return error


def response_interrupted(worker: Worker, what: str, topology: Topology, now: float) -> ResponseInterruptedError:
    """The worker failed in mid-answer."""
    return ResponseInterruptedError(
        f"{worker.name} ({worker.url}) failed in mid-answer: {what}. Part of it was passed on already, so the request "
        f"was not sent to another. {topology.describe(now)}",
        topology=topology,
        worker=worker,
    )
