"""Liveness: the longest time each outcome may take, derived from the protocol's settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rumormill.gossip import ProtocolSettings


@dataclass(frozen=True, slots=True)
class LivenessBounds:
    """Bounds in seconds, for a pool without loss, faults or impaired hosts."""

    settings: ProtocolSettings
    running: int
    known: int
    """Number of members that ever existed."""

    @property
    def spread(self) -> float:
        """A broadcast to every member: ln n rounds, each delayed by one burst interval and a slow link."""
        return (math.log(max(self.running, 2)) + 2) * (self.settings.burst + 0.005)

    @property
    def detection(self) -> float:
        """From a crash to its eviction everywhere: three misses after the last heartbeat, plus the broadcast."""
        period = self.settings.period
        return self.settings.misses * period + self.settings.grace + period / 4 + self.spread

    @property
    def unwatched_detection(self) -> float:
        """The same when all monitors died with the member, so that a slow probe must find it.

        It also covers mass failures, whose evictions are deferred.
        """
        settings = self.settings
        successors = (settings.misses + 1) * settings.period
        held = 3 * settings.period
        return self.detection + successors + held + 2 * settings.slow_probe

    @property
    def one_view(self) -> float:
        """From the end of all faults to one view, whatever happened before.

        Two sides that hold each other dead meet when a member retries a dead one. A pool that lost most members waits
        until isolation ends. A difference that only sync can find waits for a sync.
        """
        settings = self.settings
        retries = settings.dead_retry * 1.25 * (1 + math.log(max(self.known, 1)))
        syncs = 4 * settings.slow_probe
        isolation = settings.isolation_hold
        return isolation + retries + syncs + 2 * self.unwatched_detection
