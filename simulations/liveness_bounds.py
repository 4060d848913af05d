"""How long each good thing may take, derived from the protocol's own settings: the liveness half of the contract."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rumormill.gossip import ProtocolSettings


@dataclass(frozen=True, slots=True)
class LivenessBounds:
    """Bounds in seconds, for a pool that is left alone: no loss, no faults, nobody hindered."""

    settings: ProtocolSettings
    running: int
    known: int
    """Members there ever were."""

    @property
    def spread(self) -> float:
        """A push to everyone: ln n rounds, each waiting for a burst and a slow link."""
        return (math.log(max(self.running, 2)) + 2) * (self.settings.burst + 0.005)

    @property
    def detection(self) -> float:
        """From a crash to its eviction everywhere: three misses after the last heartbeat, and the spread."""
        period = self.settings.period
        return self.settings.misses * period + self.settings.grace + period / 4 + self.spread

    @property
    def unwatched_detection(self) -> float:
        """The same for a member whose monitors all died with it, so that a slow probe must find it; and for many losses
        at once, which wait."""
        settings = self.settings
        successors = (settings.misses + 1) * settings.period
        held = 3 * settings.period
        return self.detection + successors + held + 2 * settings.slow_probe

    @property
    def one_view(self) -> float:
        """From calm to one view, whatever happened before.

        Two sides that hold each other dead meet when somebody retries somebody; a pool of which most are gone waits out
        its isolation; a difference that only sync can find waits for a sync.
        """
        settings = self.settings
        retries = settings.dead_retry * 1.25 * (1 + math.log(max(self.known, 1)))
        syncs = 4 * settings.slow_probe
        isolation = settings.isolation_patience
        return isolation + retries + syncs + 2 * self.unwatched_detection
