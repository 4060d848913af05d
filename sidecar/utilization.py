"""One utilization from what was read of a worker. Pure; times in seconds.

The utilization is the larger of two parts: requests running, of those that the worker can run at once; and its cache in
use. Waiting requests are the queue, and not part of it. Where the capacity is not known, it is learned: the most
requests that ever ran at once while others waited. Until that was seen, the utilization is unknown.

Figures are smoothed over about two seconds. One request more or less is no news for the pool.
"""

from __future__ import annotations

import math
from typing import Final

from rumormill.sidecar.worker_load import WorkerLoad

SMOOTHING_SECONDS: Final = 2.0
"""Larger: fewer figures for the pool, and a burst is seen later."""


class UtilizationMeter:
    """Turns readings into a utilization and a queue."""

    __slots__ = ("_at", "_learned", "_value")

    def __init__(self) -> None:
        self._learned = 0
        self._value: float | None = None
        self._at = -math.inf

    def measure(self, load: WorkerLoad | None) -> tuple[float | None, int]:
        """The utilization and the queue after this reading; None without one."""
        busy = self._busy(load) if load is not None else None
        if load is None or busy is None:
            self._value = None
            return None, 0
        if self._value is None:
            self._value = busy
        else:
            weight = 1.0 - math.exp(-max(load.read_at - self._at, 0.0) / SMOOTHING_SECONDS)
            self._value += (busy - self._value) * weight
        self._at = load.read_at
        return self._value, load.waiting

    def _busy(self, load: WorkerLoad) -> float | None:
        if load.waiting > 0:
            self._learned = max(self._learned, load.running)
        capacity = load.capacity or self._learned
        parts = [load.running / capacity] if capacity else []
        if load.cache_use is not None and math.isfinite(load.cache_use):
            parts.append(min(max(load.cache_use, 0.0), 1.0))
        return max(parts, default=None)
