"""Tracks the wall clock against the boot clock, which gossip uses and which nobody sets.

The times of events are derived from the boot clock, those of the log from the wall clock. When the wall clock is set
(NTP after a start, a migrated virtual machine), the two would disagree from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from rumormill.gossip.udp.transport import boot_clock

MIN_STEP_SECONDS: Final = 0.05
"""Seconds that count as a step. With a smaller value a busy machine looks like a step. With a larger one, times may
disagree by that much."""
MAX_READ_SECONDS: Final = 0.01
"""Seconds that reading both clocks may take. After a longer pause in between, the difference proves nothing."""


class WallClock:
    """``offset`` is wall clock minus boot clock in seconds, as last measured."""

    def __init__(self, *, wall: Callable[[], float] = time.time, boot: Callable[[], float] = boot_clock) -> None:
        self._wall = wall
        self._boot = boot
        self.offset = wall() - boot()

    def measure_step(self) -> float:
        """By how many seconds the wall clock was set since the last call; 0.0 if it was not. Updates ``offset``."""
        before = self._boot()
        wall = self._wall()
        after = self._boot()
        step = wall - after - self.offset
        if after - before > MAX_READ_SECONDS or abs(step) < MIN_STEP_SECONDS:
            return 0.0
        self.offset += step
        return step
