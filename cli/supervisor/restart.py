"""When a process that has ended is started again. Pure: the time it ran and the random source are given."""

from __future__ import annotations

import math
import random
from typing import Final, Literal

RestartMode = Literal["never", "on-failure", "always"]
FIRST_DELAY: Final = 1.0
"""Seconds before the first restart. A larger value costs availability, a smaller one CPU if the start itself fails."""
MAX_DELAY: Final = 60.0
"""Seconds. A larger value leaves a repaired worker down for longer."""
HEALTHY_SECONDS: Final = 60.0
"""A process that ran this long starts over with the first delay. With a smaller value a worker that crashes while it
loads its model is restarted too often."""


def wanted(mode: RestartMode, exit_code: int) -> bool:
    """Whether a process that ended with this code is started again. A signal that ended it counts as a failure."""
    return mode == "always" or (mode == "on-failure" and exit_code != 0)


class Backoff:
    """The delays before restarts: doubling, and jittered, so that workers that crash together do not load together."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0

    def next_delay(self, ran: float) -> float:
        """Seconds to wait after the process has ended; ``ran`` is how long it lived, in seconds."""
        if ran >= HEALTHY_SECONDS:
            self._failures = 0
        full = min(MAX_DELAY, math.ldexp(FIRST_DELAY, min(self._failures, 16)))
        self._failures += 1
        return full * self._rng.uniform(0.5, 1.0)
