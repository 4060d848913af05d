"""A member as callers see it: one :class:`~rumormill.ring.worker.Worker`, its words and its times. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, get_args

from msgspec.structs import replace

from rumormill.membership.load import MemberLoad
from rumormill.membership.record import Address, Liveness, Readiness
from rumormill.membership.view import Member
from rumormill.ring.worker import LivenessWord, ReadinessWord, Worker

_LIVENESS: Final[dict[Liveness, LivenessWord]] = {Liveness(i): w for i, w in enumerate(get_args(LivenessWord))}
_READINESS: Final[dict[Readiness, ReadinessWord]] = {Readiness(i): w for i, w in enumerate(get_args(ReadinessWord))}


def timestamp(seconds: float) -> str:
    """Wall-clock seconds since 1970 as RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def liveness_word(liveness: Liveness) -> LivenessWord:
    return _LIVENESS[liveness]


def readiness_word(readiness: Readiness) -> ReadinessWord:
    return _READINESS[readiness]


def worker_from_member(member: Member, wall_offset: float) -> Worker:
    """A member as callers see it. `wall_offset` is wall clock minus the observer's clock, in seconds."""
    return Worker(
        name=member.name,
        generation=member.generation,
        instance=member.instance.hex(),
        service=member.service,
        url=member.url,
        zone=member.zone,
        release=member.release,
        weight=member.weight / 1000,
        liveness=_LIVENESS[member.liveness],
        readiness=_READINESS[member.readiness],
        utilization=None,
        tags=dict(member.tags),
        since=timestamp(member.since + wall_offset),
        address=format_address(member.address),
        probation_until=timestamp(member.probation_ends + wall_offset) if member.probation_ends is not None else "",
    )


def with_load(worker: Worker, load: MemberLoad | None, wall_offset: float) -> Worker:
    """The worker as callers see it under this load; None for an unknown one. The same object if nothing changes."""
    busy = load.utilization if load is not None else None
    queue = load.queue if load is not None else None
    if (worker.utilization, worker.queue) == (busy, queue):
        return worker
    at = timestamp(load.heard + wall_offset) if load is not None else ""
    return replace(worker, utilization=busy, queue=queue, load_at=at)


def format_address(address: Address) -> str:
    """HOST:PORT, IPv6 in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unready_reason(member: Member, probation: float | None) -> str:
    """Why a present member's worker takes no new work, in words; empty if it does. ``probation`` is in seconds."""
    if not member.liveness.present or (member.routable and not probation):
        return ""
    if member.pending:
        return "its name is still held by another member"
    if probation:
        return f"it has flapped, and is on probation for {probation:.0f} s more"
    if member.readiness.routable:
        return "its weight is 0"
    return member.unready or f"its worker is {readiness_word(member.readiness)}"


def unroutable_reason(worker: Worker) -> str:
    """Why a worker that is present takes no new work, in words."""
    if worker.probation_until and worker.readiness == "starting":
        return f"it has flapped, and is on probation until {worker.probation_until}"
    return "its weight is 0" if worker.readiness in ("passing", "warning") else f"its worker is {worker.readiness}"
