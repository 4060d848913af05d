"""What the readiness checks say: three misses in a row. Pure; times in seconds."""

from __future__ import annotations

from typing import Final

from rumormill.sidecar.health.observations import CheckMiss, MissKind

MISSES: Final = 3
"""Misses in a row that count. With more, a failure is noticed later; with fewer, one lost packet counts."""


class CheckEvidence:
    """The checks since the last one that passed."""

    def __init__(self) -> None:
        self.passed_last = False
        """Whether the latest check passed."""
        self.misses = 0
        """Misses in a row that count."""
        self.reason = ""
        """Why the latest check was missed; empty if it passed."""
        self.failed = False
        """Whether the misses are more than silence."""
        self.only_unanswered = True
        """Whether each was sent, and not answered. Otherwise nothing may have listened for a while, and another process
        may be starting."""
        self.first_miss_at = 0.0
        """When the first check of these was sent."""

    def passed(self) -> None:
        self.__init__()  # type: ignore[misc]
        self.passed_last = True

    def missed(self, miss: CheckMiss, *, excused: bool) -> None:
        """Take a miss. An excused one is silence of a worker that is seen to make progress, or that others judge by its
        counters."""
        self.passed_last = False
        self.reason = miss.reason
        self.only_unanswered = self.only_unanswered and miss.kind is MissKind.NO_ANSWER
        if excused:
            return
        if not self.misses:
            self.first_miss_at = miss.asked_at
        self.misses += 1
        self.failed = self.failed or (self.misses >= MISSES and miss.kind.conclusive)

    def forgive_silence(self) -> None:
        """The worker has made progress: it was busy and not silent."""
        if self.only_unanswered:
            self.misses = 0

    @property
    def silent(self) -> bool:
        return self.misses >= MISSES
