"""When a draining worker has finished what it had. Pure; times in seconds.

Who counts, the best first:

* *engine*: the worker's own metrics. No request runs or waits, in a reading that is late enough to hold what callers
  sent before they heard of the drain.
* *clients*: what callers report. Others may have sent requests too, so the worker keeps ``drain-time`` at least.
* *time*: nobody counts. The worker has ``drain-time``.
"""

from __future__ import annotations

from typing import Final

from rumormill.discovery.schema.load import DrainState
from rumormill.sidecar.worker_load import WorkerLoad

SETTLE_SECONDS: Final = 0.5
"""By then callers have heard of a drain, and what they sent before has reached the worker."""
NOT_DRAINING: Final = DrainState(False, False, None, "time", None, 0.0)


class DrainWatch:
    """One worker's drain, from its beginning to its end."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._reported = False
        """Whether callers have reported requests since the drain began."""

    def begin(self, now: float) -> None:
        if self._began is None:
            self._began, self._reported = now, False

    def end(self) -> None:
        """The worker takes new work again."""
        self._began = None

    def state(self, now: float, *, engine: WorkerLoad | None, clients: int | None, drain_time: float) -> DrainState:
        """How far it is, by the last reading of the engine and by what callers report; None for what is unknown."""
        if self._began is None:
            return NOT_DRAINING
        since = now - self._began
        if engine is not None:
            count = engine.running + engine.waiting
            settled = engine.read_at >= self._began + SETTLE_SECONDS
            left = max(self._began + SETTLE_SECONDS - now, 0.0)
            return DrainState(True, settled and count == 0, count, "engine", since, left)
        left = max(drain_time - since, 0.0)
        self._reported = self._reported or clients is not None
        if not self._reported:
            return DrainState(True, left == 0.0, None, "time", since, left)
        count = clients or 0
        return DrainState(True, left == 0.0 and count == 0, count, "clients", since, left)
