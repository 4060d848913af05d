"""The settings of the protocol. Everything else is derived from them.

Each setting says what a larger value costs. docs/understand/results.md says how to tune them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rumormill.membership.record import WIRE_VERSION


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """Times in seconds."""

    period: float = 0.2
    """Time between heartbeats. Larger: proportionally slower detection, fewer datagrams. The same in the whole pool."""
    grace: float = 0.025
    """How late a heartbeat may be before it is a miss; grows with a peer's jitter. Larger: slower detection."""
    misses: int = 3
    """Consecutive misses before a vote. Larger: one period slower each, fewer false votes on lossy networks."""
    monitors: int = 3
    """Monitors of each member (K). Larger: proportionally more datagrams. Below 3, the loss of a rack is found late."""
    isolation_hold: float = 60.0
    """How long an isolated member keeps its view and evicts nobody. Larger: a last survivor takes longer to evict the
    others. Smaller: a cut that lasts longer ends with everyone evicted on both sides."""
    tombstone_life: float = 3600.0
    """How long dead and left members are remembered. Larger: more memory, longer protection against stale claims."""
    burst: float = 0.02
    """Minimum time between two bursts of broadcasts. Larger: fewer datagrams, slower spread."""
    slow_probe: float = 1.0
    """Time between round-robin probes, which complete the monitoring and measure round trips. Larger: rare failures are
    found later."""
    dead_retry: float = 2.0
    """Time between retries of a dead member. Larger: the two sides of a healed partition find each other later."""
    icmp_evidence: bool = True
    """Whether ICMP refusals of datagrams count as evidence (gossip/detection/icmp_evidence.py). Off: the death of a
    process is found no sooner than the silence of a host."""
    probation: float = 5.0
    """Flap probation of a member that starts a third time within a minute; triples at each further start. 0: none."""
    wire_version: int = WIRE_VERSION
    """The highest wire version that this member speaks. Lower: to see how a pool of two versions behaves."""
    max_members: int = 10_000
    """Rows held at most. Further newcomers are refused and counted."""
