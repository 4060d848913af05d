"""Who a member is, and what it reports about its worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from rumormill.gossip.security.credentials import Credential, MemberKeys
from rumormill.membership.record import (
    MAX_OWN_RECORD_BYTES,
    MAX_PERIOD,
    MAX_PROBATION,
    MAX_UNREADY_BYTES,
    Address,
    Readiness,
    Record,
    encode_record,
)


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
    unready: str = ""
    """Why the worker takes no new work; empty if it does. Cut to what a record has room for."""
    endpoint: int = 0
    """The port of our discovery endpoint, if others can reach it; else 0."""


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

    def record(self, now: float, period: float, wire: int) -> Record:
        """Our record at ``now``, with the ``period`` of our heartbeats, both in seconds, in this wire version."""
        profile = self.profile
        left = max(0, math.ceil((self.probation_ends - now) * 1000)) if self.probation_ends > now else 0
        waits = left and profile.readiness.routable
        record = Record(
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
        return record if wire < 2 else _of_version_2(record, profile, wire)


def _of_version_2(record: Record, profile: Profile, wire: int) -> Record:
    """The same record with the fields of wire version 2. A reason that it has no room for is left out."""
    unready = _printable(profile.unready)
    full = msgspec.structs.replace(record, wire=wire, unready=unready, endpoint=profile.endpoint)
    if len(encode_record(full)) <= MAX_OWN_RECORD_BYTES:
        return full
    return msgspec.structs.replace(full, unready="")


def _printable(text: str) -> str:
    """The text on one line, cut to what a record may hold."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line.encode()[:MAX_UNREADY_BYTES].decode(errors="ignore")
