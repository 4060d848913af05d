"""When one request's next hedge is due. Pure; times in seconds on the pool's clock. hedging.py has the reasons."""

from __future__ import annotations

from math import inf
from typing import Final

from rumormill.client.rules.hedging import MIN_HEDGE_DELAY, LatencyWindow
from rumormill.client.rules.retries import RequestState
from rumormill.client.selection.worker_selector import WorkerSelector

TIMER_LATENESS: Final = 0.010
"""Seconds that the timer may fire late. Beyond that, this process itself was held up."""
HEDGE_RETRY_DELAY: Final = 0.5
"""Seconds until the hedge of a request at a doubtful worker is tried again if the budget was empty. A worker may stay
doubtful for minutes. Less keeps this process busy with every waiting request; more makes them wait longer than the
budget requires."""


class HedgeSchedule:
    """The hedges of one request."""

    __slots__ = ("_doubtful_hedge_at", "_expected", "_hedged_at", "_held_up", "_latency", "_selector", "_state")

    def __init__(self, selector: WorkerSelector, state: RequestState, latency: LatencyWindow) -> None:
        self._selector = selector
        self._state = state
        self._latency = latency
        self._hedged_at = self._doubtful_hedge_at = -inf
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

    def record_hedge(self, now: float) -> None:
        """A hedge has begun, or the budget allowed none."""
        self._hedged_at = now
        if self._doubtful:
            self._doubtful_hedge_at = now

    @property
    def _doubtful(self) -> bool:
        worker = self._state.attempts[-1].worker
        return self._selector.became_suspect(worker) or self._selector.became_critical(worker)

    def _due(self) -> float:
        if not self._state.may_hedge:
            return inf
        began = self._state.attempts[-1].began
        if self._doubtful:
            return max(began + MIN_HEDGE_DELAY, self._doubtful_hedge_at + HEDGE_RETRY_DELAY)
        delay = self._latency.hedge_delay
        return inf if delay is None else max(began, self._hedged_at) + delay
