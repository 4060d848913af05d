"""What one look at an engine's counters found."""

from __future__ import annotations

from dataclasses import dataclass

from rumormill.sidecar.worker_load import WorkerLoad


class BadCounters(ValueError):
    """The page is not what the engine's profile says. The message names the reason, for a log line."""


@dataclass(frozen=True, slots=True)
class CounterReading:
    """The figures of one page. None stands for what the engine does not say."""

    running: int | None = None
    waiting: int | None = None
    cache_use: float | None = None
    """0 to 1."""
    capacity: int | None = None
    """Requests that it can work on at once."""
    asleep: bool = False
    """Whether it was put to sleep, and takes no requests."""
    progress: float | None = None
    """Only changes mean anything: it starts anew when the engine does."""

    @property
    def at_work(self) -> int | None:
        """Requests that run or wait; None if neither is known."""
        if self.running is None and self.waiting is None:
            return None
        return (self.running or 0) + (self.waiting or 0)

    def worker_load(self, capacity: int | None, read_at: float) -> WorkerLoad | None:
        """The same for those who ask how busy the worker is; None if the engine does not say what it works on.
        ``capacity`` is what others say of it."""
        if self.running is None:
            return None
        return WorkerLoad(
            self.running, self.waiting or 0, self.cache_use, self.progress, capacity or self.capacity, read_at
        )
