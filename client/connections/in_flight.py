"""Requests in flight at each worker, and what happens to them when their worker is evicted.

Requests are kept by the worker's URL: several sidecars may name one worker, and a sidecar may come back beside the same
worker under another name. A draining worker finishes its requests, even after its sidecar has left. A worker that is
suspect, or evicted without draining, is asked directly (direct_check.py), while it stays so and has requests in flight.

The threads of a pool share all this under its lock. Only the direct checks belong to the pool's event loop, so they are
woken and cancelled there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import anyio
import httpx2

from rumormill.client.connections.upstream import Upstream
from rumormill.client.discovery.topology import Topology
from rumormill.client.errors import PoolError, response_interrupted
from rumormill.client.rules.messages import RawHeaders
from rumormill.client.rules.retries import Attempt
from rumormill.client.runtime.shared_lock import SharedLock
from rumormill.client.runtime.timers import RunInLoop
from rumormill.client.selection.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

if TYPE_CHECKING:
    from rumormill.client.observability.telemetry import AttemptSpan


class StepInterrupted(Exception):
    """A step of a request was ended from outside."""


class WorkerLost(StepInterrupted):
    """The worker is gone while a request was in flight there. `reason` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Overtaken(StepInterrupted):
    """Another attempt was quicker, or the request was given up."""


class InFlightRequest:
    """One attempt at one worker, from its first byte until its answer is closed."""

    span: AttemptSpan | None = None
    """The attempt as OpenTelemetry sees it, if that is installed."""

    def __init__(self, registry: InFlightRegistry, at_worker: WorkerInFlight, attempt: Attempt, up: Upstream) -> None:
        self.attempt = attempt
        self.worker = attempt.worker
        self.upstream = up
        self.began_after_eviction = at_worker.evicted
        """The worker was already evicted when the request began, and was asked as a last resort."""
        self.sent = False
        """Whether the worker may have received the whole head of the request. Without it, it cannot have acted."""
        self.success = False
        """Whether the worker's status says that it has served the request, if the answer comes to its end."""
        self.finished = False
        """Whether the worker has answered it to its end, and not with an error of its own."""
        self._registry = registry
        self._lock = registry.lock
        self._interrupt: Callable[[], object] | None = None
        self._lost: str | None = None
        self._overtaken = False
        self._open = True

    @property
    def more_headers(self) -> RawHeaders:
        """Headers that only this attempt has."""
        return [] if self.span is None else self.span.headers

    def begin_step(self, interrupt: Callable[[], object]) -> None:
        """A step begins that `interrupt` ends at once. Raises :class:`StepInterrupted` if no step may begin."""
        with self._lock:
            self.check()
            self._interrupt = interrupt

    def end_step(self) -> None:
        """The step has ended, and nothing may interrupt what comes after it."""
        with self._lock:
            self._interrupt = None

    def check(self) -> None:
        """Raises :class:`StepInterrupted` if the request was interrupted."""
        if self._lost is not None:
            raise WorkerLost(self._lost)
        if self._overtaken:
            raise Overtaken

    def abort(self, reason: str) -> None:
        """The worker is gone: interrupt the current step, and refuse any other."""
        with self._lock:
            self._lost = reason
            if self._interrupt is not None:
                self._interrupt()

    def cancel(self) -> None:
        """Nobody waits for this attempt any more: interrupt its current step, and refuse any other."""
        with self._lock:
            self._overtaken = True
            if self._interrupt is not None:
                self._interrupt()

    def stream_error(self, error: Exception) -> Exception:
        """The error for a caller whose streamed answer ends early like this. A broken connection counts."""
        match error:
            case WorkerLost():
                what = error.reason
            case httpx2.TransportError() if not isinstance(error, httpx2.TimeoutException):
                what = str(error) or type(error).__name__
                self._registry.record_broken(self)
            case _:
                return error
        return self._registry.interrupted(self, what)

    def close(self) -> None:
        """The attempt is over, however it ended. Safe to repeat."""
        with self._lock:
            if self._open:
                self._open = False
                self._interrupt = None
                self._registry.remove(self)


class WorkerInFlight:
    """All requests in flight at one worker."""

    def __init__(self, worker: Worker, *, evicted: bool) -> None:
        self.worker = worker
        """The worker as the last topology that named it described it."""
        self.evicted = evicted
        self._suspect = _is_suspect(worker)
        self.check: anyio.CancelScope | None = None
        """The running direct check, to be cancelled when it is no longer needed. None while there is none."""
        self._requests: set[InFlightRequest] = set()

    @property
    def unchecked(self) -> bool:
        """Whether it needs a direct check and has none."""
        return self.check is None and (self.evicted or self._suspect)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: InFlightRequest) -> None:
        self._requests.add(request)

    def discard(self, request: InFlightRequest) -> None:
        self._requests.discard(request)

    def update(self, worker: Worker | None) -> None:
        """Take the worker as the new topology describes it, or None if that does not name it."""
        if worker is not None:
            returned, self._suspect = self.evicted, _is_suspect(worker)
            self.worker, self.evicted = worker, False
            if returned or not self._suspect:
                self.cancel_check()
        else:
            self.evicted = self.worker.readiness != "draining"

    def abort_all(self, reason: str) -> None:
        """The worker accepts no connections any more: abort every request."""
        self._abort(list(self._requests), reason)

    def abort_before_eviction(self, reason: str) -> None:
        """The worker has fallen silent: abort the requests that began while it was a member."""
        self._abort([request for request in list(self._requests) if not request.began_after_eviction], reason)

    def abort(self, reason: str) -> None:
        """Abort every request for a reason of this process."""
        for request in list(self._requests):
            request.abort(reason)

    def cancel_check(self) -> None:
        """Call it in the pool's event loop."""
        if self.check is not None:
            self.check.cancel()
            self.check = None

    def _abort(self, requests: Iterable[InFlightRequest], reason: str) -> None:
        for request in requests:
            request.abort(f"{request.worker.name} was evicted or left, and {reason}")


class InFlightRegistry:
    """All requests in flight, by the URL of their worker."""

    def __init__(
        self, selector: WorkerSelector, lock: SharedLock, clock: Callable[[], float], run_in_loop: RunInLoop
    ) -> None:
        self.lock = lock
        self._clock = clock
        self._selector = selector
        self._run_in_loop = run_in_loop
        self._by_url: dict[str, WorkerInFlight] = {}
        self._check_needed = anyio.Event()

    def begin(self, attempt: Attempt, upstream: Upstream) -> InFlightRequest:
        """Register an attempt. The next pick, for any request, already counts it."""
        worker = attempt.worker
        at_worker = self._by_url.get(worker.url)
        if at_worker is None:
            evicted = any(worker.url == gone.url for _, gone in self._selector.topology.departed)
            at_worker = self._by_url[worker.url] = WorkerInFlight(worker, evicted=evicted)
            self._wake_checker(at_worker)
        request = InFlightRequest(self, at_worker, attempt, upstream)
        at_worker.add(request)
        upstream.in_use += 1
        self._selector.begin_request(worker)
        return request

    def remove(self, request: InFlightRequest) -> None:
        request.upstream.in_use -= 1
        self._selector.end_request(request.worker, finished=request.finished)
        at_worker = self._by_url.get(request.worker.url)
        if at_worker is not None:
            at_worker.discard(request)
            if not at_worker:
                del self._by_url[request.worker.url]
                if at_worker.check is not None:
                    self._run_in_loop(at_worker.cancel_check)

    def record_broken(self, request: InFlightRequest) -> None:
        """The worker has broken off its answer."""
        now = self._clock()
        with self.lock:
            self._selector.record_unreachable(request.worker, now, now)

    def interrupted(self, request: InFlightRequest, what: str) -> PoolError:
        return response_interrupted(request.worker, what, self._selector.topology, self._clock())

    def close(self, reason: str) -> None:
        """The pool closes: abort every request."""
        with self.lock:
            for at_worker in self._by_url.values():
                at_worker.abort(reason)

    def update(self, topology: Topology) -> None:
        """Learn which workers the topology names now. Call it in the pool's event loop."""
        if not self._by_url:
            return
        named: dict[str, Worker] = {}
        for worker in topology.workers:
            if worker.url in self._by_url and (worker.url not in named or worker.readiness != "draining"):
                named[worker.url] = worker
        for url, at_worker in self._by_url.items():
            at_worker.update(named.get(url))
            self._wake_checker(at_worker)

    async def wait_for_unchecked(self) -> list[WorkerInFlight]:
        """Wait until workers with requests in flight need a direct check and have none. Gives each its scope."""
        while not (found := self._unchecked()):
            self._check_needed = anyio.Event()
            await self._check_needed.wait()
        return found

    def _unchecked(self) -> list[WorkerInFlight]:
        with self.lock:
            found = [worker for worker in self._by_url.values() if worker.unchecked]
            for at_worker in found:
                at_worker.check = anyio.CancelScope()
            return found

    def _wake_checker(self, at_worker: WorkerInFlight) -> None:
        if at_worker.unchecked:
            self._run_in_loop(self._set_check_needed)

    def _set_check_needed(self) -> None:
        self._check_needed.set()


def _is_suspect(worker: Worker) -> bool:
    """Whether it may be evicted soon. A draining worker finishes its requests in any case."""
    return worker.liveness == "suspect" and worker.readiness != "draining"
