"""What is seen of the worker, and what it is then held to be."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rumormill.membership.record import Readiness


class MissKind(enum.Enum):
    """Why a readiness check was missed."""

    REFUSED = "refused"
    """Nothing listens: the process is gone, or has not come so far."""
    BAD_ANSWER = "bad answer"
    """Something else than a 2xx answer came, or the connection was closed."""
    NO_ANSWER = "no answer"
    """Nothing came in time, or a status that this engine gives when it is busy."""
    NOT_ASKED = "not asked"
    """The check could not be sent, for want of a descriptor, a name or a route."""

    @property
    def conclusive(self) -> bool:
        """Whether the worker has failed, and is not only busy."""
        return self in (MissKind.REFUSED, MissKind.BAD_ANSWER)


@dataclass(frozen=True, slots=True)
class CheckMiss:
    """One missed readiness check."""

    kind: MissKind
    reason: str
    """Plain English for a log line."""
    asked_at: float
    """When the check was sent, in seconds."""


class Condition(enum.Enum):
    """What the worker is held to be. The order of precedence is in :mod:`rumormill.sidecar.health.worker_health`."""

    STARTING = "starting"
    ASLEEP = "asleep"
    """Its engine was put to sleep, and says so."""
    WELL = "well"
    SLOW = "slow"
    """Its answers are right, and late."""
    STALLED = "stalled"
    """It has requests, and makes no progress with them."""
    SILENT = "silent"
    """It refuses, closes, or answers nothing."""
    WRONG = "wrong"
    """Its answer to a known question is wrong."""
    ENDED = "ended"
    """Its process has exited."""

    @property
    def readiness(self) -> Readiness:
        """What the pool is told."""
        match self:
            case Condition.STARTING | Condition.ASLEEP:
                return Readiness.STARTING
            case Condition.WELL:
                return Readiness.PASSING
            case Condition.SLOW:
                return Readiness.WARNING
            case _:
                return Readiness.CRITICAL


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """The worker's condition, with its reason in words."""

    condition: Condition
    reason: str
    failed: bool = False
    """Whether the worker has failed for certain. A worker that may only be busy has not: it is never put on
    probation."""

    @property
    def readiness(self) -> Readiness:
        return self.condition.readiness
