"""Where every request begins, and what the requests of a pool share: workers, budgets, latencies, the timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rumormill.client.connections.upstream import Upstream
from rumormill.client.connections.upstreams import Upstreams
from rumormill.client.discovery.topology import Topology
from rumormill.client.observability.events import topology_event
from rumormill.client.observability.pool_figures import PoolFigures
from rumormill.client.requests.hedge_schedule import HedgeSchedule, HedgingOptions
from rumormill.client.requests.pool_state import PoolState
from rumormill.client.requests.request_machine import RequestMachine, StartHedge
from rumormill.client.rules.deadline import deadline_of
from rumormill.client.rules.hedging import LatencyWindows, request_kind
from rumormill.client.rules.messages import PoolRequest
from rumormill.client.rules.replay import Replay, why_not_replayable
from rumormill.client.rules.retries import RequestState
from rumormill.client.rules.verdicts import Classify
from rumormill.client.runtime.shared_lock import SharedLock
from rumormill.client.runtime.timers import Timers

if TYPE_CHECKING:
    from rumormill.client.observability.telemetry import Telemetry


class Dispatcher(PoolState):
    """The requests of one pool, to the workers of the current topology, which may be replaced at any time."""

    def __init__(
        self,
        upstreams: Upstreams,
        timers: Timers,
        *,
        clock: Callable[[], float],
        lock: SharedLock,
        hedging: HedgingOptions,
        telemetry: Telemetry | None,
        classify: Classify | None,
    ) -> None:
        super().__init__(upstreams, timers, clock=clock, lock=lock, telemetry=telemetry, classify=classify)
        self._hedging = hedging
        self._latencies = LatencyWindows()

    @property
    def topology(self) -> Topology:
        return self.upstreams.selector.topology

    def update(self, topology: Topology) -> list[Upstream]:
        """Use the workers of this topology from now on. Returns the upstreams that the caller should close."""
        with self.lock:
            doubtful, known = self._doubtful(), self.topology
            idle = self.upstreams.update(topology)
            if topology != known:
                self.upstreams.events.publish(topology_event(known, topology, self.clock()))
            # A hedge is due at once for requests at workers that have just become suspect or critical.
            if self._doubtful() - doubtful:
                for request in self.waiting:
                    request.rearm()
            return idle

    def _doubtful(self) -> frozenset[str]:
        return self.upstreams.selector.suspects | self.upstreams.selector.critical

    def begin(self, request: PoolRequest, replay: Replay, start_hedge: StartHedge) -> RequestMachine:
        """A new request. `start_hedge` makes an attempt beside the caller's own."""
        one_shot, path = request.one_shot, request.path
        reason = why_not_replayable(replay, request.method, request.read, one_shot=one_shot)
        state = RequestState(f"{request.method} {path}", reason, one_shot=one_shot)
        hedged = self._hedging.enabled and reason is None
        now = self.clock()
        request.deadline = deadline_of(request.read.get("rumormill-deadline"), request.extensions.get("timeout"), now)
        with self.lock:
            self.budgets.record_request(now)
            self.counts.requests += 1
            latency = self._latencies.window(request_kind(request.method, path, request.content_length))
            schedule = None
            if hedged:
                late = not request.asks_for_stream
                schedule = HedgeSchedule(self.upstreams.selector, state, latency, self._hedging.after, late=late)
            machine = RequestMachine(self, request, state, latency, schedule, start_hedge)
            if hedged:
                self.waiting.add(machine)
        return machine

    def figures(self) -> PoolFigures:
        """What second attempts have cost."""
        with self.lock:
            return self.counts.figures()

    def close(self) -> list[Upstream]:
        """The pool closes: end every request. Returns the upstreams to close."""
        with self.lock:
            self.closed = True
            self.upstreams.events.close()
            self.upstreams.in_flight.close("this pool was closed")
            return self.upstreams.remove_all()
