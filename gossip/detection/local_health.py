"""Local health: a member doubts itself before it accuses others (Lifeguard, Dadgar et al., 2018).

Three rules keep a member with a local problem from evicting healthy members:

* It votes only if it has heard from *anybody* since the misses began. Where nobody else is left to hear from, it waits
  for two more misses. This is Lifeguard's local health multiplier, reduced to one rule.
* It extends the grace by the time that heartbeats lay unread in its own socket: that delay is its own fault.
* It pings others while it has reason to believe that nobody hears it (mute_detector.py).

Two further rules have files of their own. partition_guard.py stops all accusations while too many members seem lost at
once. :meth:`rumormill.gossip.node.Node.handle_timer` notices a pause of the whole process.
"""

from __future__ import annotations

from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import INDIRECT_CHECKS, Probes
from rumormill.gossip.state import NodeState

QUEUE_DELAY_DECAY = 0.5
"""Part of the measured queue delay that still counts after one second. A slow network path stays slow, so jitter fades
ten times as slowly; a processor is busy only for a moment, and until the delay has faded, deaths are detected late.
Zero: 64 nodes that join in one process suspect one another."""
EXTRA_MISSES_ALONE = 2
"""Misses to wait for beyond the usual number where nobody else is left to hear from."""


class LocalHealth:
    """Whether our own judgment can be trusted. Times in seconds."""

    __slots__ = ("_measured_at", "_partition_guard", "_probes", "_state", "queue_delay")

    def __init__(self, state: NodeState, partition_guard: PartitionGuard, probes: Probes) -> None:
        self._state = state
        self._partition_guard = partition_guard
        self._probes = probes
        self.queue_delay = 0.0
        """How long heartbeats recently lay unread in our own socket: a maximum that decays."""
        self._measured_at = state.now

    def note_queue_delay(self, delay: float) -> None:
        """A heartbeat lay unread in our socket for so long."""
        now = self._state.now
        decayed = self.queue_delay * QUEUE_DELAY_DECAY ** (now - self._measured_at)
        self.queue_delay, self._measured_at = max(delay, decayed), now

    def may_judge(self, misses: int, misses_began: float) -> bool:
        """Whether a run of misses is more likely the subject's fault than ours: we have heard somebody since it
        began."""
        state = self._state
        if len(state.table.present_ids) <= 2 or state.last_heard_anyone >= misses_began:
            return True
        return misses >= state.settings.misses + EXTRA_MISSES_ALONE

    def check_outbound(self) -> None:
        """Once a period: while we suspect that nobody hears us, ping three members. Once that is certain, ping one, to
        notice when it is over."""
        guard = self._partition_guard
        if guard.outbound_cut or guard.mute_detector.suspected:
            for row in self._state.random_members(1 if guard.outbound_cut else INDIRECT_CHECKS):
                self._probes.ping(row)

    def restart(self) -> None:
        """After a pause of our own: everything waited in the socket for as long as the pause, which says nothing."""
        self.queue_delay, self._measured_at = 0.0, self._state.now
