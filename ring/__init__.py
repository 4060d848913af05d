"""Who owns a key: workers as callers see them, and the consistent-hash ring over them.

The ring is a pure function of the routable workers and the pool's policy. Sidecars and clients compute it each for
themselves, and wherever routing digests are equal they agree on every key's owners and on their order. What decides
where a key goes may enter this room; what a caller adds on top (suspects last, load, retries) may not, nor anything
that holds a socket, a clock or a source of randomness.
"""

from rumormill.ring.hashring import DEFAULT_POINTS, EmptyRing, HashRing
from rumormill.ring.routing import Routing, canonical_routing, routing_digest
from rumormill.ring.worker import CanaryShare, Policy, Worker, WorkersAnswer

__all__ = [
    "DEFAULT_POINTS",
    "CanaryShare",
    "EmptyRing",
    "HashRing",
    "Policy",
    "Routing",
    "Worker",
    "WorkersAnswer",
    "canonical_routing",
    "routing_digest",
]
