"""Who a member is, and what it reports about its worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumormill.gossip.security.credentials import Credential, MemberKeys
from rumormill.membership.record import MAX_PERIOD, MAX_PROBATION, Address, Readiness, Record


@dataclass(frozen=True, slots=True)
class Profile:
    """What a sidecar reports about its worker."""

    service: str
    url: str
    zone: str = ""
    release: str = ""
    weight: int = 1000
    """In thousandths of a normal worker."""
    readiness: Readiness = Readiness.STARTING
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Identity:
    """Who this member is, and how it describes itself now."""

    name: str
    address: Address
    profile: Profile
    generation: int
    incarnation: int
    pending: bool
    keys: MemberKeys
    credential: Credential | None = None
    """The certified signing key of the name; None where the pool has no authority."""
    probation_ends: float = -math.inf
    """When our flap probation ends (flap_damping.py). Until then our record says *starting* instead of ready."""

    def record(self, now: float, period: float) -> Record:
        """Our record at ``now``, with the ``period`` of our heartbeats. Both in seconds."""
        profile = self.profile
        left = max(0, math.ceil((self.probation_ends - now) * 1000)) if self.probation_ends > now else 0
        waits = left and profile.readiness.routable
        return Record(
            name=self.name,
            generation=self.generation,
            incarnation=self.incarnation,
            pending=self.pending,
            keys=self.keys.public,
            host=self.address[0],
            port=self.address[1],
            service=profile.service,
            url=profile.url,
            zone=profile.zone,
            release=profile.release,
            weight=profile.weight,
            readiness=Readiness.STARTING if waits else profile.readiness,
            tags=dict(profile.tags),
            certificate=self.keys.certificate,
            probation=min(left, MAX_PROBATION),
            period=min(max(1, round(period * 1000)), MAX_PERIOD),
        )
