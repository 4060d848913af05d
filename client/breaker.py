"""A circuit breaker: how long a worker that keeps failing stands behind the others. Pure; times in seconds on the
pool's clock. (M. Nygard, Release It!, 2007; the states have his names.)

The rules:

- Closed, it lets everything pass. It opens at once where the worker could not be reached or hung, and where five of its
  last ten answers failed within ten seconds, or six of them within any time.
- Open, it holds the worker behind the others: for 1 s where it could not be reached, 0.5 s where it hung, 5 s for what
  it answered; twice as long each time, up to 60 s, until it has been closed for a minute. Jitter keeps callers apart.
- When that is over, one request may try: half-open. Letting it try holds the worker back for twice as long, so whatever
  becomes of that request, another tries later. If it succeeds, the breaker closes; if it fails, it opens anew.
- Evidence from before the last change of state says nothing: those requests began under what is known already. But a
  worker that hung answers nobody, so any answer closes the breaker that this has opened.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from typing import Final

UNREACHABLE_FOR: Final = 1.0
"""Seconds a worker stays behind after a connection failed. Longer, and one that came back waits for its keys."""
SILENT_FOR: Final = 0.5
"""The same, after a hedge or the caller's limit overtook it and it had said nothing to anyone meanwhile."""
FAILING_FOR: Final = 5.0
"""The same, after too many of its answers failed. Longer, and a worker that healed waits; shorter, and more requests
have to be sent twice."""
LONGEST: Final = 60.0
"""The longest of these; also how long a breaker that closed remembers how long it was open."""
JITTER: Final = 0.2
ANSWERS: Final = 10
"""Answers that are looked at."""
FAILURES: Final = 5
WINDOW: Final = 10.0
"""So many failures open it within so many seconds."""


class Why(enum.Enum):
    """What opened a breaker."""

    UNREACHABLE = UNREACHABLE_FOR
    SILENT = SILENT_FOR
    ANSWERS = FAILING_FOR


class Breaker:
    """The breaker of one worker."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._answers: deque[tuple[float, bool]] = deque(maxlen=ANSWERS)
        """When, and whether it failed."""
        self._until: float | None = None
        """Open until then, then half-open; None is closed."""
        self._pause = 0.0
        self._since = float("-inf")
        """The last change of state."""
        self._why: Why | None = None

    @property
    def by_answers(self) -> bool:
        """Whether answers alone opened it."""
        return self._why is Why.ANSWERS

    @property
    def closed(self) -> bool:
        return self._until is None

    def holds(self, now: float) -> bool:
        """Whether the worker stands behind the others."""
        return self._until is not None and now < self._until

    def let_try(self, now: float) -> None:
        """A request goes to the worker; if it is the one that tries, no other does for a while."""
        if self._until is not None and now >= self._until:
            self._pause = min(2 * self._pause, LONGEST)
            self._until = now + self._jittered()

    def try_again(self, now: float) -> None:
        """Somebody else says that the worker is well: let a request try at once."""
        if self._until is not None:
            self._until = min(self._until, now)

    def is_news(self, began: float) -> bool:
        """Whether a request that began then says anything that is not known already."""
        return began > self._since

    def succeeded(self, began: float, now: float) -> None:
        """A request that began then was answered as it should be."""
        self._answers.append((now, False))
        if not self.closed and (self.is_news(began) or self._why is Why.SILENT):
            self.close(now)

    def failed(self, now: float) -> bool:
        """The worker answered with a failure; returns whether that makes too many of them."""
        self._answers.append((now, True))
        failures = sum(failed for _, failed in self._answers)
        return failures > FAILURES or self.failures(now) >= FAILURES

    def failures(self, now: float) -> int:
        """How many of its last answers failed lately."""
        return sum(failed and at > now - WINDOW for at, failed in self._answers)

    def open(self, why: Why, now: float) -> None:
        """Hold the worker behind the others, for longer where it was held before."""
        again = not self.closed or now - self._since < LONGEST
        self._pause = max(why.value, self._pause if again else 0.0)
        self._until = now + self._jittered()
        self._since = now
        self._why = why
        self._answers.clear()

    def close(self, now: float) -> None:
        """Let everything pass."""
        self._until, self._since, self._why = None, now, None

    def _jittered(self) -> float:
        return self._pause * self._rng.uniform(1.0, 1.0 + JITTER)
