"""When one request's next hedge is due. Pure; times in seconds on the pool's clock. hedging.py has the reasons."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from rumormill.client.rules.hedging import MIN_HEDGE_DELAY, UNRESPONSIVE_FACTOR, LatencyWindow
from rumormill.client.rules.retries import RequestState
from rumormill.client.selection.worker_selector import WorkerSelector

TIMER_LATENESS: Final = 0.010
"""Seconds that the timer may fire late. Beyond that, this process itself was held up."""
HEDGE_RETRY_DELAY: Final = 0.5
"""Seconds until the hedge of a request at a doubtful worker is tried again if the budget was empty. A worker may stay
doubtful for minutes. Less keeps this process busy with every waiting request; more makes them wait longer than the
budget requires."""


@dataclass(frozen=True, slots=True)
class HedgingOptions:
    """What the pool's options say about hedging."""

    enabled: bool
    after: float | None
    """Seconds after which an answer is late. None takes the 95th percentile of answers to requests of the same kind."""


class HedgeSchedule:
    """The hedges of one request."""

    __slots__ = (
        "_after",
        "_doubtful_hedge_at",
        "_early_done",
        "_expected",
        "_held_up",
        "_late",
        "_latency",
        "_selector",
        "_state",
        "_waiting_since",
    )

    def __init__(
        self,
        selector: WorkerSelector,
        state: RequestState,
        latency: LatencyWindow,
        after: float | None = None,
        *,
        late: bool = True,
    ) -> None:
        """`after` is the fixed delay, if there is one. Without `late`, only doubt about a worker makes a hedge due."""
        self._selector = selector
        self._state = state
        self._latency = latency
        self._after = after
        self._late = late
        self._early_done = False
        """The hedge for a late answer has begun, or the budget allowed none."""
        self._waiting_since = self._doubtful_hedge_at = -inf
        """When the last hedge began."""
        self._expected = inf
        """When the timer is to fire."""
        self._held_up = False
        """The timer fired late, so the answer gets as long again."""

    def next(self, now: float) -> float:
        """When to look at the request again; infinite if never, or while too little is known of its kind."""
        if not self._held_up:
            self._expected = max(self._due(), now)
        return self._expected

    def is_due(self, now: float) -> bool:
        """The timer has fired: whether to hedge now. If this process was held up, the answer may wait to be read."""
        late, self._expected = now - self._expected, inf
        if now < self._due():
            self._held_up = False
        elif late > TIMER_LATENESS and not self._held_up:
            self._held_up, self._expected = True, now + late
        else:
            self._held_up = False
            return True
        return False

    def looks_unresponsive(self, now: float) -> bool:
        """Whether a hedge that is due now is due because the workers that were asked may not be working any more."""
        if not self._doubtful and now < self._began + self._long_delay:
            return False
        running = (attempt for attempt in self._state.attempts if attempt.running)
        return all(self._selector.looks_unresponsive(attempt.worker, attempt.began) for attempt in running)

    def record_hedge(self, now: float, *, began: bool) -> None:
        """A hedge has begun, or the budget allowed none."""
        if began or self._early_done:
            self._waiting_since = now
        self._early_done = True
        if self._doubtful:
            self._doubtful_hedge_at = now

    @property
    def _began(self) -> float:
        return self._state.attempts[-1].began

    @property
    def _doubtful(self) -> bool:
        worker = self._state.attempts[-1].worker
        return self._selector.became_suspect(worker) or self._selector.became_critical(worker)

    @property
    def _delay(self) -> float:
        """Seconds after which an answer is late."""
        delay = self._latency.hedge_delay if self._after is None else self._after
        return inf if delay is None or not self._late else delay

    @property
    def _long_delay(self) -> float:
        """Seconds after which a worker that has answered nobody meanwhile looks unresponsive."""
        return max(UNRESPONSIVE_FACTOR * (self._latency.p95 or self._delay), self._delay)

    def _due(self) -> float:
        if not self._state.may_hedge:
            return inf
        if self._doubtful:
            return max(self._began + MIN_HEDGE_DELAY, self._doubtful_hedge_at + HEDGE_RETRY_DELAY)
        return max(self._began, self._waiting_since) + (self._long_delay if self._early_done else self._delay)
