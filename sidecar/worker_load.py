"""One reading of how busy the worker is, whoever read it: its engine's metrics, or its callers' reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What was read of a worker at one moment. None stands for what its source does not say."""

    running: int
    """Requests that the worker works on."""
    waiting: int
    """Requests that it has accepted and not begun."""
    cache_use: float | None
    """Part of its cache (an LLM's KV cache) that is in use, 0 to 1."""
    progress: float | None
    """A counter that grows while the worker makes progress: tokens, iterations, requests. Only changes count."""
    capacity: int | None
    """Requests that it works on at once at most."""
    read_at: float
    """When it was read, in seconds on the sidecar's clock (``boot_clock``)."""
