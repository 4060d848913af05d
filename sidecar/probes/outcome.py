"""What one run of a probe says of the worker."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Protocol


class ProbeVerdict(enum.Enum):
    """The result of one run."""

    RIGHT = "right"
    """The answer is as expected and came within the latency budget."""
    SLOW = "slow"
    """The answer is as expected, but came later than that; or the worker refused because it is overloaded."""
    WRONG = "wrong"
    """An answer came, and it is not as expected."""
    SILENT = "silent"
    """No answer, and none will come: the connection was refused, closed or reset."""
    TIMED_OUT = "timed out"
    """No whole answer when the probe gave up, or this machine could not ask. The worker may only be busy."""

    @property
    def answered(self) -> bool:
        """Whether the answer was as expected, at whatever time."""
        return self in (ProbeVerdict.RIGHT, ProbeVerdict.SLOW)


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """One run of a probe."""

    verdict: ProbeVerdict
    reason: str
    """Plain English for a log line, without a secret and at most a few hundred characters."""
    seconds: float
    """How long the run took; for a stream, until its first token."""
    answer: str = ""
    """What came, in a few words; empty if nothing did."""
    vector: tuple[float, ...] = field(default=(), repr=False)
    """The vector of a right or slow answer that has one."""


class Probe(Protocol):
    """Asks the worker something and judges the answer."""

    @property
    def description(self) -> str:
        """What is asked, in one line without a secret."""

    @property
    def expected(self) -> str:
        """What a right answer is like, in one line."""

    async def run(self) -> ProbeOutcome:
        """Ask once, on a connection of its own. Raises nothing but cancellation; ends after its give-up time."""
