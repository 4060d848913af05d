"""Pool policy as JSON, and its conversion to what callers route by. Shares are fractions of 1; times RFC 3339, UTC."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from rumormill.discovery.schema.policy_bodies import (
    ALL_BASIS_POINTS,
    CanaryPolicy,
    Maintenance,
    PolicyKind,
    Rollout,
    Share,
    ZonePreference,
    body_of,
)
from rumormill.membership.policy import PolicyRecord
from rumormill.ring.worker import CanaryShare, RoutingPolicy

NO_CANARY = CanaryPolicy([])
ServiceName = Annotated[str, msgspec.Meta(max_length=128, description="May be left out if there is only one.")]


class RolloutRow(msgspec.Struct, frozen=True):
    """How far a guided rollout has come. The program that guides it stores this here."""

    release: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    steps: Annotated[list[Annotated[float, msgspec.Meta(ge=0, le=1)]], msgspec.Meta(min_length=1, max_length=32)]
    hold: Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)]
    """Seconds for which each step must pass its gates."""
    gates: Annotated[list[Annotated[str, msgspec.Meta(max_length=400)]], msgspec.Meta(max_length=16)] = []
    prometheus: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """Where metric gates are read from; empty for none."""
    figures: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """The client's own figures, a path or URL; empty for none."""
    position: Annotated[int, msgspec.Meta(ge=0, lt=32)] = 0
    """The present step, from 0."""
    since: Annotated[float, msgspec.Meta(ge=0, lt=2**43)] = 0.0
    """When that step began, seconds since 1970."""
    state: Literal["running", "done", "failed", "aborted"] = "running"
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


class CandidateRow(msgspec.Struct, frozen=True):
    """A release with a share of its own."""

    release: str
    share: float
    workers: int
    """Routable workers of this release; without any, its share goes to the others."""


class CanaryAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/canary``, and of what changes it."""

    service: str
    index: int
    """The policy's version; 0 before the first write. A change may name it, and is refused if it is not the latest."""
    writer: str
    """The member at which the policy was last written; empty before the first write."""
    at: str
    """When that was, by that member's wall clock; empty before the first write."""
    canary: list[CandidateRow]
    """In the order in which they became candidates."""
    rest: float
    """The share of the workers of all other releases."""
    rollout: RolloutRow | None
    warnings: list[str] = []
    """What may be a mistake in the policy just written."""


class CanaryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/canary``: one release's share; the other candidates keep theirs."""

    release: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    service: ServiceName = ""
    rollout: RolloutRow | None = None
    index: int | None = None
    """Refuse with 409 unless the policy's version is still this one."""


class MaintenanceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/maintenance``: all workers that take no new work."""

    workers: list[Annotated[str, msgspec.Meta(min_length=1, max_length=128)]]
    """The names of the workers that are to take no new work."""
    service: ServiceName = ""


class ZoneBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/zone``: the zone preferred by callers that name none; empty for none."""

    zone: Annotated[str, msgspec.Meta(max_length=64)]
    service: ServiceName = ""


class MaintenanceAnswer(msgspec.Struct, frozen=True):
    service: str
    workers: list[str]
    """The names of the workers in maintenance."""
    warnings: list[str] = []


class ZoneAnswer(msgspec.Struct, frozen=True):
    service: str
    zone: str
    warnings: list[str] = []


class PolicyChange(msgspec.Struct, frozen=True):
    """One change, as this sidecar learned of it."""

    index: int
    """The version of the policy after the change."""
    service: str
    kind: PolicyKind
    """Which policy has changed."""
    writer: str
    at: str
    text: str
    """The policy in words."""


class HistoryAnswer(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/policy/history``: newest last; the last 200 since this sidecar's start."""

    changes: list[PolicyChange]


def find(records: Iterable[PolicyRecord], service: str, kind: PolicyKind) -> PolicyRecord | None:
    """The record of one kind of one service."""
    return next((record for record in records if record.service == service and record.kind == kind), None)


def canary_of(record: PolicyRecord | None) -> CanaryPolicy:
    """The canary in a record; one without candidates where there is none."""
    body = body_of(record) if record is not None else None
    return body if isinstance(body, CanaryPolicy) else NO_CANARY


def workers_in_maintenance(record: PolicyRecord | None) -> list[str]:
    """The workers that a maintenance record names; none where there is no record."""
    body = body_of(record) if record is not None else None
    return body.workers if isinstance(body, Maintenance) else []


def preferred_zone(record: PolicyRecord | None) -> str:
    """The zone that a record prefers; empty for none."""
    body = body_of(record) if record is not None else None
    return body.zone if isinstance(body, ZonePreference) else ""


def routing_policies(records: Iterable[PolicyRecord]) -> dict[str, RoutingPolicy]:
    """The routing policy of each service. Maintenance is not in it: that shows as readiness."""
    policies: dict[str, RoutingPolicy] = {}
    for record in records:
        held = policies.get(record.service, RoutingPolicy())
        index = max(held.index, record.counter)
        match body_of(record):
            case CanaryPolicy(shares):
                canary = [CanaryShare(share.release, share.share / ALL_BASIS_POINTS) for share in shares]
                policies[record.service] = RoutingPolicy(index, canary, held.zone)
            case ZonePreference(zone):
                policies[record.service] = RoutingPolicy(index, held.canary, zone)
            case Maintenance():
                policies[record.service] = RoutingPolicy(index, held.canary, held.zone)
    return policies


def with_share(canary: CanaryPolicy, release: str, share: int) -> list[Share]:
    """The candidates with one release's share (basis points) changed, or the release added at the end."""
    if all(one.release != release for one in canary.shares):
        return [*canary.shares, Share(release, share)]
    return [Share(release, share) if one.release == release else one for one in canary.shares]


def rollout_from_json(row: RolloutRow) -> Rollout:
    return Rollout(
        release=row.release,
        steps=[round(step * ALL_BASIS_POINTS) for step in row.steps],
        hold=row.hold,
        gates=row.gates,
        prometheus=row.prometheus,
        figures=row.figures,
        position=row.position,
        since=round(row.since * 1000),
        state=row.state,
        why=row.why,
    )


def rollout_to_json(rollout: Rollout) -> RolloutRow:
    return RolloutRow(
        release=rollout.release,
        steps=[step / ALL_BASIS_POINTS for step in rollout.steps],
        hold=rollout.hold,
        gates=rollout.gates,
        prometheus=rollout.prometheus,
        figures=rollout.figures,
        position=rollout.position,
        since=rollout.since / 1000,
        state=rollout.state,
        why=rollout.why,
    )
