"""Whether a worker is slow with whatever it is asked, so that keys leave it. Pure; times in seconds, on the pool's
clock.

Workers own different keys, so one long answer says nothing about its worker: it may belong to a user who asks for much.
The rules are therefore slow to convict, and quick to acquit:

- Each answer is compared with the median of its kind (hedging.py), at all workers.
- A worker is slow if the geometric mean of its last ANSWERS ratios is above SLOW. One answer among them that took sixty
  times as long moves the mean by 1.3 only.
- A slow worker gets a test request now and then. After WELL_AGAIN answers in a row below half of SLOW it is well.
"""

from __future__ import annotations

from collections import deque
from math import log
from typing import Final

ANSWERS: Final = 16
"""More needs more answers until a slow worker loses its keys; fewer takes a few long answers for a slow worker."""
SLOW: Final = 5.0
"""How many times the median of their kind its answers take. Less moves keys, and their caches, for less."""
WELL_AGAIN: Final = 2
PROBE_EVERY: Final = 1.0
PROBE_REQUESTS: Final = 150
"""A slow worker is asked again after so many seconds and so many requests of the pool, whichever come later."""


class SlowOwner:
    """What one worker's answers say."""

    __slots__ = ("_logs", "_probe_at", "_probe_count", "_sum", "_well", "slow")

    def __init__(self) -> None:
        self.slow = False
        self._logs: deque[float] = deque()
        self._sum = 0.0
        self._well = 0
        self._probe_at = 0.0
        self._probe_count = 0

    def record(self, seconds: float, typical: float, now: float, count: int) -> None:
        """An answer took so long, where its kind takes `typical` at the median. `count` requests have been made."""
        ratio = log(max(seconds, 1e-6) / max(typical, 1e-6))
        if self.slow:
            self._well = self._well + 1 if ratio < log(SLOW / 2) else 0
            if self._well >= WELL_AGAIN:
                self.slow, self._sum = False, 0.0
                self._logs.clear()
            return
        self._logs.append(ratio)
        self._sum += ratio
        if len(self._logs) > ANSWERS:
            self._sum -= self._logs.popleft()
        if len(self._logs) == ANSWERS and self._sum > ANSWERS * log(SLOW):
            self.slow, self._well = True, 0
            self.on_request(now, count)

    def on_request(self, now: float, count: int) -> None:
        """The worker is asked. If it is slow, it is not asked again for a while."""
        self._probe_at, self._probe_count = now + PROBE_EVERY, count + PROBE_REQUESTS

    def avoided(self, now: float, count: int) -> bool:
        """Whether requests go elsewhere if they can."""
        return self.slow and (now < self._probe_at or count < self._probe_count)
