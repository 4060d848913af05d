"""What a sidecar announces of itself and its worker."""

from __future__ import annotations

from rumormill.gossip import Profile
from rumormill.membership.record import Readiness
from rumormill.sidecar.settings import Settings
from rumormill.sidecar.settings_values import HostPort


def profile_of(settings: Settings, readiness: Readiness, unready: str = "", endpoint: int = 0) -> Profile:
    """The profile that a sidecar with these settings announces for a worker in this state. ``unready`` says why the
    worker takes no new work, and ``endpoint`` is the port at which others reach the discovery endpoint."""
    return Profile(
        service=settings.service,
        url=settings.worker_url,
        zone=settings.zone,
        release=settings.release,
        weight=round(settings.weight * 1000),
        readiness=readiness,
        tags=settings.tag,
        unready=unready,
        endpoint=endpoint,
    )


def reachable_endpoint(settings: Settings, bound: HostPort) -> int:
    """The port of the discovery endpoint, if it can be reached at the host at which the others reach our gossip; else
    0. ``bound`` is where it listens."""
    host = settings.advertised_address
    if settings.http.path is not None:
        return 0
    same = bound.host == host.host or (bound.wildcard and bound.family == host.family)
    return bound.port if same else 0
