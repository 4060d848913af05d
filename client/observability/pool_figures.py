"""What second attempts have cost a pool, and how often they helped: `pool.figures()`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class AttemptCounts:
    """Counted while requests run, under the pool's lock."""

    requests: int = 0
    attempts: int = 0
    hedges: int = 0
    hedges_won: int = 0
    overtaken_seconds: float = 0.0

    def figures(self) -> PoolFigures:
        """As they are now."""
        return PoolFigures(self.requests, self.attempts, self.hedges, self.hedges_won, self.overtaken_seconds)


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """One pool since it was opened, in this process."""

    requests: int
    attempts: int
    """Requests sent to workers: first attempts, retries and hedges."""
    hedges: int
    """Attempts that began while an earlier one was running. This is what hedging costs: each is one request more."""
    hedges_won: int
    """Requests that a hedge answered first. This is what hedging saved: their callers did not wait for the slower
    worker. How much longer that would have taken is unknown, because its attempt was cancelled."""
    overtaken_seconds: float
    """Seconds that workers had spent on attempts when another one answered first and their connection was closed."""

    @property
    def attempts_per_request(self) -> float:
        return self.attempts / self.requests if self.requests else 0.0

    @property
    def hedge_share(self) -> float:
        """Hedges for each request: 0.02 means 2 % more work."""
        return self.hedges / self.requests if self.requests else 0.0
