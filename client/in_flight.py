"""Requests in flight at each worker, and what happens to them when their worker is evicted.

Requests are kept by the worker's URL: several sidecars may name one worker, and a sidecar may come back beside the same
worker under another name. A draining worker finishes its requests, even after its sidecar has left. A worker that is
evicted without draining is asked directly (direct_check.py), while it stays evicted and has requests in flight.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import anyio

from rumormill.client.topology import Topology
from rumormill.client.upstream import Upstream
from rumormill.client.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

T = TypeVar("T")


class WorkerLost(Exception):
    """The worker is gone while a request was in flight there. `reason` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InFlightRequest:
    """One request at one worker, from its first byte until its answer is closed."""

    def __init__(
        self,
        registry: InFlightRegistry,
        worker: Worker,
        upstream: Upstream,
        selector: WorkerSelector,
        *,
        after_eviction: bool,
    ) -> None:
        self.worker = worker
        self.upstream = upstream
        self.began_after_eviction = after_eviction
        """The worker was already evicted when the request began, and was asked as a last resort."""
        self.finished = False
        """Whether the worker has answered it to its end, and not with an error of its own."""
        self._registry = registry
        self._selector = selector
        self._scope: anyio.CancelScope | None = None
        self._lost: str | None = None
        self._open = True
        upstream.in_use += 1
        selector.begin_request(worker)

    async def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run one step of the request. Raises :class:`WorkerLost` as soon as the worker is gone, and the step's own
        errors."""
        if self._lost is not None:
            raise WorkerLost(self._lost)
        with anyio.CancelScope() as self._scope:
            return await step()
        raise WorkerLost(self._lost or "lost")

    def abort(self, reason: str) -> None:
        """The worker is gone: cancel the current step, and refuse any other."""
        self._lost = reason
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """The request is over, however it ended. Safe to repeat."""
        if self._open:
            self._open = False
            self.upstream.in_use -= 1
            self._selector.end_request(self.worker, finished=self.finished)
            self._registry.remove(self)


class WorkerInFlight:
    """All requests in flight at one worker."""

    def __init__(self, worker: Worker, *, evicted: bool) -> None:
        self.worker = worker
        """The worker as the last topology that named it described it."""
        self.evicted = evicted
        self.check: anyio.CancelScope | None = None
        """The running direct check, to be cancelled when it is no longer needed. None while there is none."""
        self._requests: set[InFlightRequest] = set()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: InFlightRequest) -> None:
        self._requests.add(request)

    def discard(self, request: InFlightRequest) -> None:
        self._requests.discard(request)

    def update(self, worker: Worker | None) -> None:
        """Take the worker as the new topology describes it, or None if that does not name it."""
        if worker is not None:
            self.worker, self.evicted = worker, False
            self.cancel_check()
        else:
            self.evicted = self.worker.readiness != "draining"

    def abort_all(self, reason: str) -> None:
        """The worker accepts no connections any more: abort every request."""
        self._abort(list(self._requests), reason)

    def abort_before_eviction(self, reason: str) -> None:
        """The worker has fallen silent: abort the requests that began while it was a member."""
        self._abort([request for request in self._requests if not request.began_after_eviction], reason)

    def cancel_check(self) -> None:
        if self.check is not None:
            self.check.cancel()
            self.check = None

    def _abort(self, requests: Iterable[InFlightRequest], reason: str) -> None:
        for request in requests:
            request.abort(f"{request.worker.name} was evicted or left, and {reason}")


class InFlightRegistry:
    """All requests in flight, by the URL of their worker."""

    def __init__(self) -> None:
        self._by_url: dict[str, WorkerInFlight] = {}
        self._check_needed = anyio.Event()

    def begin(self, worker: Worker, upstream: Upstream, selector: WorkerSelector) -> InFlightRequest:
        at_worker = self._by_url.get(worker.url)
        if at_worker is None:
            evicted = any(worker.url == gone.url for _, gone in selector.topology.departed)
            at_worker = self._by_url[worker.url] = WorkerInFlight(worker, evicted=evicted)
            self._wake_checker(at_worker)
        request = InFlightRequest(self, worker, upstream, selector, after_eviction=at_worker.evicted)
        at_worker.add(request)
        return request

    def remove(self, request: InFlightRequest) -> None:
        at_worker = self._by_url.get(request.worker.url)
        if at_worker is not None:
            at_worker.discard(request)
            if not at_worker:
                at_worker.cancel_check()
                del self._by_url[request.worker.url]

    def update(self, topology: Topology) -> None:
        """Learn which workers the topology names now."""
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
        """Wait until there are evicted workers with requests in flight and no direct check."""
        while not (found := list(self._unchecked())):
            self._check_needed = anyio.Event()
            await self._check_needed.wait()
        return found

    def _unchecked(self) -> Iterator[WorkerInFlight]:
        return (at_worker for at_worker in self._by_url.values() if at_worker.evicted and at_worker.check is None)

    def _wake_checker(self, at_worker: WorkerInFlight) -> None:
        if at_worker.evicted and at_worker.check is None:
            self._check_needed.set()
