"""Who is alive: heartbeats, probes, votes, and the evidence that a member is gone (SWIM, Lifeguard).

A part here concludes; it never changes the member table itself. What it concludes goes through
rumormill.gossip.lifecycle.eviction.
"""
