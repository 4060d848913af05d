"""Who owns a key: workers as callers see them, and the consistent-hash ring over them.

The ring is a pure function of the routable workers and the pool's policy. Sidecars and clients compute it each for
themselves, and wherever routing digests are equal they agree on every key's owners and on their order. What decides
where a key goes may enter this room, and the arithmetic of the steps a caller takes along that order (load, slow
start); what a caller remembers and does may not, nor anything that holds a socket, a clock or a source of randomness.
"""

from rumormill.ring.explain import Candidate, Explanation, explain
from rumormill.ring.hash_ring import DEFAULT_POINTS, EmptyRing, HashRing
from rumormill.ring.routing import Routing, canonical_routing, routing_digest
from rumormill.ring.traffic_split import TrafficSplit
from rumormill.ring.worker import CanaryShare, RoutingPolicy, Worker

__all__ = [
    "DEFAULT_POINTS",
    "CanaryShare",
    "Candidate",
    "EmptyRing",
    "Explanation",
    "HashRing",
    "Routing",
    "RoutingPolicy",
    "TrafficSplit",
    "Worker",
    "canonical_routing",
    "explain",
    "routing_digest",
]
