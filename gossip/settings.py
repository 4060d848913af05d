"""The protocol's settings: few, and everything else is derived from them.

Each says what a larger value costs. docs/understand/results.md says how to tune them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """Times in seconds."""

    period: float = 0.2
    """One heartbeat each. Larger: slower detection in proportion, fewer datagrams. Equal throughout a pool."""
    grace: float = 0.025
    """Lateness forgiven before a miss; adapts upwards with a peer's jitter. Larger: slower detection."""
    misses: int = 3
    """Consecutive misses before a vote. Larger: one period slower each, calmer on lossy networks."""
    monitors: int = 3
    """Members that watch each member (K). Larger: more datagrams in proportion; below 3 a rack loss is found late."""
    isolation_patience: float = 60.0
    """How long an isolated member evicts nobody. Larger: a last survivor takes longer to give the others up."""
    tombstone_life: float = 3600.0
    """How long the dead and the left are remembered. Larger: more memory, longer memory for stale claims."""
    burst: float = 0.02
    """Pushes wait this long for company after a first one has left. Larger: fewer datagrams, slower spread."""
    slow_probe: float = 1.0
    """Round-robin probe of anyone, for completeness and round-trip times. Larger: slower cover of odd failures."""
    dead_retry: float = 2.0
    """One dead member is tried again each. Larger: a healed partition finds itself later."""
    icmp_evidence: bool = True
    """Whether refused datagrams count (gossip/detection/icmp_evidence.py). Off: a dead process is found as late as a
    silent host."""
    probation: float = 5.0
    """Of a member that starts a third time within a minute; three times as long at each further one. 0: never."""
    max_members: int = 10_000
    """Rows held at most; further newcomers are refused and counted."""
