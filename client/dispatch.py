"""Entry point of every request: prepares the body, then sends it as a hedged request (hedged_request.py)."""

from __future__ import annotations

import anyio
import httpx2

from rumormill.client.bodies import OneShotBody, prepare_request_body
from rumormill.client.hedged_request import HedgedRequest
from rumormill.client.hedging import LatencyWindows, request_kind
from rumormill.client.replay import Replay, why_not_replayable
from rumormill.client.retries import RequestState
from rumormill.client.retry_budget import RetryBudgets
from rumormill.client.topology import Topology
from rumormill.client.upstream import Upstream
from rumormill.client.upstreams import Upstreams


class Dispatcher:
    """Sends requests to the workers of the current topology, which may be replaced at any time."""

    def __init__(self, upstreams: Upstreams, *, hedge: bool, now: float) -> None:
        self.upstreams = upstreams
        self._hedge = hedge
        self._latencies = LatencyWindows()
        self._budgets = RetryBudgets(now)
        self._waiting: set[HedgedRequest] = set()
        """Requests without an answer yet."""

    @property
    def topology(self) -> Topology:
        return self.upstreams.selector.topology

    def update(self, topology: Topology) -> list[Upstream]:
        """Use the workers of this topology from now on. Returns the upstreams that the caller should close."""
        before = self._doubtful()
        idle = self.upstreams.update(topology)
        # A hedge is due at once for requests at workers that have just become suspect or critical.
        if self._doubtful() - before:
            for request in self._waiting:
                request.wake()
        return idle

    def _doubtful(self) -> frozenset[str]:
        return self.upstreams.selector.suspects | self.upstreams.selector.critical

    async def send(self, request: httpx2.Request, replay: Replay) -> httpx2.Response:
        """The first answer that a worker gives. Raises PoolError, and the caller's own errors as they are."""
        if not isinstance(request.stream, httpx2.AsyncByteStream):
            raise TypeError("this transport is for httpx2.AsyncClient; httpx2.Client needs the transport of a SyncPool")
        body = await prepare_request_body(request.stream)
        one_shot = isinstance(body, OneShotBody)
        reason = why_not_replayable(replay, request.method, request.headers, one_shot=one_shot)
        state = RequestState(f"{request.method} {request.url.path}", reason, one_shot=one_shot)
        self._budgets.record_request(anyio.current_time())
        kind = request_kind(request.method, request.url.path, request.headers.get("content-length"))
        latency = self._latencies.window(kind)
        hedged = HedgedRequest(self.upstreams, self._budgets, request, body, state, latency, hedge=self._hedge)
        self._waiting.add(hedged)
        try:
            return await hedged.run()
        finally:
            self._waiting.discard(hedged)
