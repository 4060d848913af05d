"""The workers of the current topology as upstreams: connections to each, requests in flight, and outcomes."""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import anyio
import httpx2

from rumormill.client.direct_check import check_evicted
from rumormill.client.errors import no_workers
from rumormill.client.in_flight import InFlightRegistry, InFlightRequest
from rumormill.client.response_class import ResponseClass
from rumormill.client.retries import Attempt
from rumormill.client.topology import Topology
from rumormill.client.upstream import Upstream
from rumormill.client.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

WARN_EVERY = 60.0
"""Minimum seconds between two warnings that too many workers fail."""

log = logging.getLogger("rumormill.client")


class Upstreams:
    """One connection pool for each worker URL, kept while the topology names the worker or a request uses it."""

    def __init__(self, selector: WorkerSelector, tls: Callable[[], ssl.SSLContext]) -> None:
        self.selector = selector
        self.in_flight = InFlightRegistry()
        self._tls = tls
        self._by_url: dict[str, Upstream] = {}
        self._warned_at = -inf

    def update(self, topology: Topology) -> list[Upstream]:
        """Use the workers of this topology from now on. Returns the upstreams that the caller should close."""
        self.selector.update(topology, anyio.current_time())
        self.in_flight.update(topology)
        wanted = {worker.url for worker in topology.workers} | {worker.url for _, worker in topology.departed}
        idle = [url for url, upstream in self._by_url.items() if url not in wanted and not upstream.in_use]
        return [self._by_url.pop(url) for url in idle]

    def remove_all(self) -> list[Upstream]:
        """Forget every upstream when the pool closes. Returns them, to be closed."""
        upstreams, self._by_url = list(self._by_url.values()), {}
        return upstreams

    async def check_evicted(self) -> None:
        """Forever check evicted workers that have requests in flight; fail these requests if the worker is gone."""
        await check_evicted(self.in_flight, self._tls)

    def begin(self, worker: Worker) -> InFlightRequest:
        """Register a request to this worker. Raises httpx2.UnsupportedProtocol if its URL cannot be used."""
        upstream = self._by_url.get(worker.url)
        if upstream is None:
            upstream = self._by_url[worker.url] = Upstream(worker.url, self._tls)
        return self.in_flight.begin(worker, upstream, self.selector)

    def record_answer(self, attempt: Attempt, response_class: ResponseClass, now: float) -> None:
        """Record a worker's answer, and warn when so many workers fail that this one stays in use."""
        recorded = self.selector.record_answer(attempt.worker, response_class, attempt.began, now)
        if not recorded and now > self._warned_at + WARN_EVERY:
            self._warned_at = now
            log.warning(
                "more than half of the workers of %r fail; %s is still used, so that the others are not overloaded",
                self.selector.topology.service,
                attempt.worker.name,
            )

    @contextmanager
    def lease(self, key: str | bytes | None) -> Iterator[Worker]:
        """A worker for a client of the caller's own. It counts as busy until the block ends."""
        began = anyio.current_time()
        worker = self.selector.pick(key, (), began)
        if worker is None:
            raise no_workers(None, self.selector.topology, began)
        self.selector.begin_request(worker)
        finished = False
        try:
            yield worker
            finished = True
            self.selector.record_answer(worker, ResponseClass(success=True), began, anyio.current_time())
        except Exception as error:
            if _is_connection_error(error):
                self.selector.record_unreachable(worker, began, anyio.current_time())
            raise
        finally:
            self.selector.end_request(worker, finished=finished)


def _is_connection_error(error: Exception) -> bool:
    """Whether a client of the caller's own could not reach its worker. httpx is asked only if the caller uses it."""
    httpx = sys.modules.get("httpx")
    return isinstance(error, (httpx2.TransportError, OSError)) or (
        httpx is not None and isinstance(error, httpx.TransportError)
    )
