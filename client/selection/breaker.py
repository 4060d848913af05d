"""A circuit breaker: how long a failing worker is ranked behind the others. Pure; times in seconds on the pool's clock.
(M. Nygard, Release It!, 2007; the states have his names. Envoy calls this outlier detection.)

The rules:

- A closed breaker lets every request pass. It opens at once if the worker is unreachable or unresponsive. It also opens
  after five failures among the last ten answers within ten seconds, or six failures within any time.
- An open breaker ranks the worker behind the others: for 1 s if it was unreachable, 0.5 s if it was unresponsive, 5 s
  if its answers were errors. Each time doubles the last, up to 60 s, until the breaker has been closed for a minute.
  Jitter keeps the callers of a pool apart.
- After that time the breaker is half-open, and one request probes the worker. Sending the probe reopens the breaker for
  twice as long, so another probe follows whatever happens to this one. If the probe succeeds, the breaker closes; if
  it fails, the breaker opens again. After errors the worker is then on trial: one failure among its next ten answers
  opens the breaker again, so that a worker that fails now and then does not need five for it each time.
- Evidence from requests that began before the last change of state does not count: it is already known. There is one
  exception. A worker that hangs answers nothing, so any answer closes a breaker that opened for unresponsiveness.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

UNREACHABLE_FOR: Final = 1.0
"""Seconds that the breaker is open after a failed connection. Longer makes a worker that is back wait for its keys."""
UNRESPONSIVE_FOR: Final = 0.5
"""The same, after a hedge or the caller's timeout was quicker and the worker had answered nobody meanwhile."""
ERRORS_FOR: Final = 5.0
"""The same, after too many answers were errors. Longer makes a recovered worker wait; shorter makes more requests
need a second attempt."""
MAX_OPEN: Final = 60.0
"""The longest time that a breaker is open, and how long a closed one remembers the time it was open before."""
JITTER: Final = 0.2
MAX_ANSWERS: Final = 10
"""How many of the last answers count."""
FAILURE_THRESHOLD: Final = 5
FAILURE_WINDOW: Final = 10.0
"""The breaker opens at the threshold within this many seconds, and above it within any time."""


BreakerState = Literal["closed", "open", "half_open"]
"""`half_open` as told to others means that one request probes the worker now."""


class OpenReason(enum.Enum):
    """Why a breaker opened. The value is how long it stays open the first time."""

    UNREACHABLE = UNREACHABLE_FOR
    UNRESPONSIVE = UNRESPONSIVE_FOR
    ERRORS = ERRORS_FOR


class Breaker:
    """The breaker of one worker."""

    def __init__(self, rng: random.Random, on_change: Callable[[BreakerState, float], object] | None = None) -> None:
        """`on_change` is told each new state, and when."""
        self._rng = rng
        self._on_change = on_change
        self._told: BreakerState = "closed"
        """The state of which `on_change` knows. An open breaker may be opened again."""
        self._answers: deque[tuple[float, bool]] = deque(maxlen=MAX_ANSWERS)
        """The time of each answer, and whether it was a failure."""
        self._failed_at = float("-inf")
        """The time of the last failure."""
        self._open_until: float | None = None
        """The breaker is open until then, and half-open afterwards. None means closed."""
        self._open_for = 0.0
        self._changed_at = float("-inf")
        """Time of the last change of state."""
        self.reason: OpenReason | None = None
        """Why it is not closed."""
        self._trial = 0
        """How many answers the worker is still on trial."""

    @property
    def opened_by_errors(self) -> bool:
        """Whether answers alone opened it."""
        return self.reason is OpenReason.ERRORS

    @property
    def is_closed(self) -> bool:
        return self._open_until is None

    def is_open(self, now: float) -> bool:
        """Whether the worker is ranked behind the others. False if the breaker is half-open."""
        return self._open_until is not None and now < self._open_until

    def time_left(self, now: float) -> float:
        """Seconds until a request may probe the worker; 0 if one may now."""
        return 0.0 if self._open_until is None else max(self._open_until - now, 0.0)

    def on_request(self, now: float) -> None:
        """A request goes to the worker. If the breaker is half-open, this is the probe, and the breaker reopens."""
        if self._open_until is not None and now >= self._open_until:
            self._open_for = min(2 * self._open_for, MAX_OPEN)
            self._open_until = now + self._jittered()
            self._tell("half_open", now)

    def half_open(self, now: float) -> None:
        """Allow a probe at once, because the worker's sidecar says that it is well."""
        if self._open_until is not None:
            self._open_until = min(self._open_until, now)

    def is_new_evidence(self, began: float) -> bool:
        """Whether the outcome of a request that began then can say anything new."""
        return began > self._changed_at

    def record_success(self, began: float, now: float) -> None:
        """A request that began then was answered well."""
        self._answers.append((now, False))
        self._trial = max(self._trial - 1, 0)
        if not self.is_closed and (self.is_new_evidence(began) or self.reason is OpenReason.UNRESPONSIVE):
            self.close(now)

    def record_failure(self, now: float) -> bool:
        """The worker answered with a failure. Returns whether there are now too many of them."""
        self._failed_at = now
        self._answers.append((now, True))
        failures = sum(failed for _, failed in self._answers)
        return self._trial > 0 or failures > FAILURE_THRESHOLD or self.recent_failures(now) >= FAILURE_THRESHOLD

    def recent_failures(self, now: float) -> int:
        """How many of the last answers were failures within the window."""
        if self._failed_at <= now - FAILURE_WINDOW:
            return 0
        return sum(failed and at > now - FAILURE_WINDOW for at, failed in self._answers)

    def open(self, reason: OpenReason, now: float) -> None:
        """Rank the worker behind the others, for no less time than before if it was open lately."""
        open_lately = not self.is_closed or now - self._changed_at < MAX_OPEN
        self._open_for = max(reason.value, self._open_for if open_lately else 0.0)
        self._open_until = now + self._jittered()
        self._changed_at = now
        self.reason = reason
        self._answers.clear()
        self._tell("open", now)

    def close(self, now: float) -> None:
        """Let every request pass. After errors the worker is on trial."""
        self._trial = MAX_ANSWERS if self.reason is OpenReason.ERRORS else 0
        self._open_until, self._changed_at, self.reason = None, now, None
        self._tell("closed", now)

    def _tell(self, state: BreakerState, now: float) -> None:
        if state != self._told:
            self._told = state
            if self._on_change is not None:
                self._on_change(state, now)

    def _jittered(self) -> float:
        return self._open_for * self._rng.uniform(1.0, 1.0 + JITTER)
