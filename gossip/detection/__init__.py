"""Failure detection: who is alive, and the evidence that a member is gone (SWIM, Lifeguard).

======================  ==================================================================
failure_detector.py     the whole: the order of each step, and what a sign of life clears
heartbeats.py           our own heartbeats
heartbeat_jitter.py     how late a peer's heartbeats come, and the grace that follows
suspicion.py            misses, the suspicion timer, verification, votes
probes.py               direct and indirect pings, round-trip times
round_robin_probe.py    the slow probe of every member in turn
icmp_evidence.py        misses shown by ICMP refusals
votes.py                the votes held, and which are valid
voter_eligibility.py    whose votes count
local_health.py         whether our own judgment can be trusted
partition_guard.py      too many losses at once: we may be the one cut off
mute_detector.py        whether anybody receives what we send
======================  ==================================================================

Nothing here changes the member table. Conclusions go through rumormill.gossip.lifecycle.eviction.
"""
