"""The errors that a caller may see. Code that handles the errors of httpx2 handles all of them.

    httpx2.TransportError
    ├── httpx2.ConnectError
    │   └── TooManyOpenFilesError       this process is out of file descriptors; no worker is at fault (descriptors.py)
    └── PoolError                       raised by the pool itself
        ├── NoWorkersError              there is no worker, or each worker was unreachable or died
        ├── RequestNotReplayableError   a worker received the request and failed; it must not be sent again
        └── ResponseInterruptedError    the worker failed after part of its answer had reached the caller

A caller's own timeouts are raised as they are (`httpx2.ReadTimeout` and the like). So are mistakes in a request
(`httpx2.LocalProtocolError`) and errors raised by the caller's own body stream.
"""

from __future__ import annotations

import httpx2

from rumormill.client.discovery.topology import Topology
from rumormill.client.rules.retries import Attempt, Failure, RequestState
from rumormill.ring.worker import Worker

_SHOWN = 8


class PoolError(httpx2.TransportError):
    """The pool could not get an answer. `topology` is what the pool believed at that moment."""

    def __init__(self, message: str, *, topology: Topology, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(message)
        self.topology = topology
        self.attempts = attempts
        """The workers that were tried, in order, and how each attempt failed."""


class NoWorkersError(PoolError):
    """No worker answered: the service has none, or each was tried once and failed."""


class RequestNotReplayableError(PoolError):
    """A worker may have acted on the request but did not answer. `reason` says why the request was not sent again."""

    def __init__(
        self, message: str, *, topology: Topology, attempts: tuple[Attempt, ...], worker: Worker, reason: str
    ) -> None:
        super().__init__(message, topology=topology, attempts=attempts)
        self.worker = worker
        self.reason = reason


class ResponseInterruptedError(PoolError):
    """The worker failed in the middle of its answer, after the caller had received the beginning."""

    def __init__(self, message: str, *, topology: Topology, worker: Worker) -> None:
        super().__init__(message, topology=topology)
        self.worker = worker


def no_workers(state: RequestState | None, topology: Topology, now: float) -> NoWorkersError:
    """The error for a request that no worker is left for. Without a `state`, no worker was tried."""
    if state is None or not state.attempts:
        asked = f"service {topology.service!r} has no worker to ask"
        hint = "" if topology.workers else "; is the service's name right, and are its sidecars up?"
    else:
        tried = "; ".join(map(str, state.attempts[:_SHOWN]))
        more = f"; and {len(state.attempts) - _SHOWN} more" if len(state.attempts) > _SHOWN else ""
        asked = f"no worker of service {topology.service!r} answered {state.title}: {tried}{more}"
        hint = ""
    attempts = tuple(state.attempts) if state is not None else ()
    error = NoWorkersError(f"{asked}. {topology.describe(now)}{hint}", topology=topology, attempts=attempts)
    error.__cause__ = next((a.failure.cause for a in reversed(attempts) if a.failure), None)
    return error


def not_replayable(
    state: RequestState, attempt: Attempt, failure: Failure, topology: Topology, now: float
) -> RequestNotReplayableError:
    """The error names the worker, how the attempt ended, and why the request was not sent again."""
    worker, reason = attempt.worker, state.not_replayable_reason or ""
    error = RequestNotReplayableError(
        f"{state.title} was sent to {worker.name} ({worker.url}) {now - attempt.began:.3f} s ago, which then failed: "
        f"{failure.what}. The worker may have acted on it, so it was not sent to another: {reason}",
        topology=topology,
        attempts=tuple(state.attempts),
        worker=worker,
        reason=reason,
    )
    error.__cause__ = failure.cause
    return error


def response_interrupted(worker: Worker, what: str, topology: Topology, now: float) -> ResponseInterruptedError:
    """The worker failed in the middle of its answer."""
    return ResponseInterruptedError(
        f"{worker.name} ({worker.url}) failed in the middle of its answer: {what}. The caller already has the "
        f"beginning, so the request was not sent to another worker. {topology.describe(now)}",
        topology=topology,
        worker=worker,
    )
