"""What the requests of one pool share. Threads use it under its lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rumormill.client.connections.upstreams import Upstreams
from rumormill.client.observability.pool_figures import AttemptCounts
from rumormill.client.rules.retry_budget import RetryBudgets
from rumormill.client.rules.verdicts import Classify
from rumormill.client.runtime.shared_lock import SharedLock
from rumormill.client.runtime.timers import Timers

if TYPE_CHECKING:
    from rumormill.client.observability.telemetry import Telemetry


class Rearmable(Protocol):
    """A request that waits for an answer."""

    def rearm(self) -> None:
        """Reconsider when a hedge is due: the topology has changed."""


class PoolState:
    """The workers, budgets and the timer of one pool."""

    def __init__(
        self,
        upstreams: Upstreams,
        timers: Timers,
        *,
        clock: Callable[[], float],
        lock: SharedLock,
        telemetry: Telemetry | None,
        classify: Classify | None,
    ) -> None:
        self.upstreams = upstreams
        self.timers = timers
        self.clock = clock
        """The pool's clock: seconds. Any thread of the pool may read it."""
        self.lock = lock
        self.telemetry = telemetry
        self.classify = classify
        self.budgets = RetryBudgets(clock())
        self.counts = AttemptCounts()
        self.closed = False
        self.waiting: set[Rearmable] = set()
        """Requests without an answer yet that may be hedged."""
