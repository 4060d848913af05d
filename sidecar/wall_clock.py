"""The wall clock beside the clock that gossip goes by, which nobody sets.

Whoever sets the wall clock (NTP after a start, a virtual machine that was moved) would otherwise have the times of
events, read off the one, disagree with those of the log, read off the other, for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from rumormill.gossip.udp.transport import boot_clock

STEP: Final = 0.05
"""Seconds that make a step. Less, and a busy machine looks like one; more, and times disagree by so much."""
DOUBT: Final = 0.01
"""Seconds that reading both clocks may take: after a longer pause in between it proves nothing."""


class WallClock:
    """``offset`` is wall clock minus boot clock in seconds, as it was when last looked at."""

    def __init__(self, *, wall: Callable[[], float] = time.time, boot: Callable[[], float] = boot_clock) -> None:
        self._wall = wall
        self._boot = boot
        self.offset = wall() - boot()

    def moved(self) -> float:
        """By how many seconds the wall clock has been set since it was last asked; 0 where it has not."""
        before = self._boot()
        wall = self._wall()
        after = self._boot()
        step = wall - after - self.offset
        if after - before > DOUBT or abs(step) < STEP:
            return 0.0
        self.offset += step
        return step
