"""What both kinds of pool tell about themselves, and the choice of a worker for a client of the caller's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

import httpx2

from rumormill.client.discovery.topology import Topology
from rumormill.client.observability.events import FallbackEvent
from rumormill.client.observability.pool_figures import PoolFigures
from rumormill.client.options import PoolOptions
from rumormill.client.requests.dispatch import Dispatcher
from rumormill.client.selection.explanation import KeyExplanation, explain_key
from rumormill.client.transports.fallbacks import FallbackUsed
from rumormill.ring.worker import Worker


class BasePool(PoolOptions):
    """The part of a pool that neither waits nor sends. Each method raises RuntimeError if the pool is not open."""

    def _require_open(self) -> Dispatcher:
        raise NotImplementedError

    def _publish_fallback(self, request: httpx2.Request, used: FallbackUsed) -> None:
        """Tell the events that a caller got a fallback. The pool may have been closed meanwhile."""
        with suppress(RuntimeError):
            dispatcher = self._require_open()
            title = f"{request.method} {request.url.path}"
            event = FallbackEvent(dispatcher.clock(), title, used.kind, used.name, used.reason)
            dispatcher.upstreams.events.publish(event)

    @property
    def topology(self) -> Topology:
        """What the pool believes now."""
        return self._require_open().topology

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Alive and suspect workers, in every readiness, sorted by name."""
        return self.topology.workers

    def owners(self, key: str | bytes, n: int | None = None) -> list[Worker]:
        """The owners of a key in order of preference. Without a zone, sidecars with the same digest give the same."""
        return self._require_open().upstreams.selector.owners(key, n)

    def explain(self, key: str | bytes) -> KeyExplanation:
        """In which order the workers would be asked for this key now, and why each has its place. It asks nobody."""
        dispatcher = self._require_open()
        with dispatcher.lock:
            return explain_key(dispatcher.upstreams.selector, key, dispatcher.clock())

    def figures(self) -> PoolFigures:
        """What retries and hedges have cost since the pool was opened, and how often they helped."""
        return self._require_open().figures()

    def acquire(self, key: str | bytes | None = None) -> AbstractContextManager[Worker]:
        """A worker for a client of your own. It counts as busy until the block ends.

        A connection error (OSError, or the TransportError of httpx2 or httpx) that leaves the block ranks the worker
        behind the others for a moment. Entering the block raises :class:`NoWorkersError`.
        """
        return self._require_open().upstreams.lease(key)
