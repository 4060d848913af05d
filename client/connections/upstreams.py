"""The workers of the current topology as upstreams: connections to each, requests in flight, and outcomes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf

import httpx2

from rumormill.client.connections.in_flight import InFlightRegistry, InFlightRequest
from rumormill.client.connections.upstream import Upstream
from rumormill.client.discovery.topology import Topology
from rumormill.client.errors import no_workers
from rumormill.client.observability.events import BreakerEvent, EventHub, PanicEvent
from rumormill.client.rules.response_class import ResponseClass
from rumormill.client.rules.retries import Attempt
from rumormill.client.runtime.shared_lock import SharedLock
from rumormill.client.runtime.timers import RunInLoop
from rumormill.client.selection.breaker import BreakerState
from rumormill.client.selection.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

_SUCCESS = ResponseClass(success=True)
WARN_EVERY = 60.0
"""Minimum seconds between two warnings that too many workers fail."""

log = logging.getLogger("rumormill.client")


class Upstreams:
    """One upstream for each worker URL, kept while the topology names the worker or a request uses it.

    Call all of it under the pool's lock, but for `lease`, which takes it.
    """

    def __init__(
        self,
        selector: WorkerSelector,
        make: Callable[[str], Upstream],
        *,
        clock: Callable[[], float],
        lock: SharedLock,
        run_in_loop: RunInLoop,
    ) -> None:
        """`make` turns a worker's URL into an upstream."""
        self.selector = selector
        selector.on_breaker = self._publish_breaker
        self.events = EventHub()
        self.in_flight = InFlightRegistry(selector, lock, clock, run_in_loop)
        self._make = make
        self._clock = clock
        self._lock = lock
        self._by_url: dict[str, Upstream] = {}
        self._warned_at = -inf

    def update(self, topology: Topology) -> list[Upstream]:
        """Use the workers of this topology from now on. Returns the upstreams that the caller should close."""
        self.selector.update(topology, self._clock())
        self.in_flight.update(topology)
        wanted = {worker.url for worker in topology.workers} | {worker.url for _, worker in topology.departed}
        idle = [url for url, upstream in self._by_url.items() if url not in wanted and not upstream.in_use]
        return [self._by_url.pop(url) for url in idle]

    def remove_all(self) -> list[Upstream]:
        """Forget every upstream when the pool closes. Returns them, to be closed."""
        upstreams, self._by_url = list(self._by_url.values()), {}
        return upstreams

    def begin(self, attempt: Attempt) -> InFlightRequest:
        """Register an attempt. Raises httpx2.UnsupportedProtocol if its worker's URL cannot be used."""
        url = attempt.worker.url
        upstream = self._by_url.get(url)
        if upstream is None:
            upstream = self._by_url[url] = self._make(url)
        return self.in_flight.begin(attempt, upstream)

    def record_answer(self, attempt: Attempt, response_class: ResponseClass, now: float, typical: float | None) -> None:
        """Record a worker's answer, and warn when so many workers fail that this one stays in use.

        `typical` is the median of answers to such requests, if it is known.
        """
        recorded = self.selector.record_answer(attempt.worker, response_class, attempt.began, now, typical)
        if not recorded and now > self._warned_at + WARN_EVERY:
            self._warned_at = now
            self.events.publish(PanicEvent(now, attempt.worker))
            log.warning(
                "more than half of the workers of %r fail; %s is still used, so that the others are not overloaded",
                self.selector.topology.service,
                attempt.worker.name,
            )

    def _publish_breaker(self, worker: Worker, state: BreakerState, now: float) -> None:
        breaker = self.selector.stats(worker).breaker
        if state == "open":
            self.selector.counts.doubt(worker, now)
        self.events.publish(BreakerEvent(now, worker, state, breaker.reason, breaker.time_left(now)))

    def lease(self, key: str | bytes | None) -> Lease:
        """A worker for a client of the caller's own. It counts as busy until the block ends."""
        return Lease(self, key)

    def _begin_lease(self, key: str | bytes | None) -> tuple[Worker, float]:
        began = self._clock()
        with self._lock:
            worker = self.selector.pick(key, (), began)
            if worker is None:
                raise no_workers(None, self.selector.topology, began)
            self.selector.begin_request(worker)
        return worker, began

    def _end_lease(self, worker: Worker, began: float, error: BaseException | None) -> None:
        now = self._clock()
        with self._lock:
            self.selector.end_request(worker, finished=error is None)
            if error is None:
                self.selector.record_answer(worker, _SUCCESS, began, now)
            elif _is_connection_error(error):
                self.selector.record_unreachable(worker, began, now)


class Lease(AbstractContextManager[Worker]):
    """A block in which a worker counts as busy. A class, because a generator costs as much as the choice itself."""

    __slots__ = ("_key", "_leased", "_upstreams")

    def __init__(self, upstreams: Upstreams, key: str | bytes | None) -> None:
        self._upstreams = upstreams
        self._key = key
        self._leased: tuple[Worker, float] | None = None

    def __enter__(self) -> Worker:
        self._leased = self._upstreams._begin_lease(self._key)
        return self._leased[0]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        leased, self._leased = self._leased, None
        if leased is not None:
            self._upstreams._end_lease(*leased, error)


def _is_connection_error(error: BaseException) -> bool:
    """Whether a client of the caller's own could not reach its worker. httpx is asked only if the caller uses it."""
    httpx = sys.modules.get("httpx")
    return isinstance(error, (httpx2.TransportError, OSError)) or (
        httpx is not None and isinstance(error, httpx.TransportError)
    )
