"""The routes that read and change the pool's policy: canary shares, maintenance, the preferred zone.

An operator writes a policy at any sidecar, and gossip carries it to all. A change of one share keeps the other shares
that this sidecar holds now, so two changes at one sidecar never overwrite each other. Of simultaneous changes at two
sidecars the last writer's policy replaces the other's; the index in the answers shows it.
"""

from __future__ import annotations

import contextlib
from typing import TypeVar

import msgspec

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.api.ring_cache import require_single_service, resolve_service, routing_for
from rumormill.discovery.api.ring_svg import render_ring
from rumormill.discovery.commands import CommandRejected
from rumormill.discovery.http.response import Response, prepare, prepare_json, refuse
from rumormill.discovery.schema.policies import (
    CanaryAnswer,
    CanaryBody,
    CandidateRow,
    HistoryAnswer,
    MaintenanceAnswer,
    MaintenanceBody,
    PolicyChange,
    ZoneAnswer,
    ZoneBody,
    canary_of,
    find,
    preferred_zone,
    rollout_from_json,
    rollout_to_json,
    with_share,
    workers_in_maintenance,
)
from rumormill.discovery.schema.policy_bodies import (
    ALL_BASIS_POINTS,
    CanaryPolicy,
    Maintenance,
    PolicyBody,
    PolicyKind,
    Rollout,
    ZonePreference,
    kind_of,
)
from rumormill.discovery.schema.query_params import CanaryQuery, ExplainQuery, NoQuery, RingQuery, ServiceQuery
from rumormill.discovery.workers import timestamp
from rumormill.membership.policy import PolicyRecord
from rumormill.ring.explain import explain

B = TypeVar("B", bound=msgspec.Struct)


# --- canary


async def canary(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    service, record = _held_policy(api, call.query, "canary")
    return prepare_json(_canary_answer(api, service, record))


async def set_canary(api: ApiContext, call: RequestContext[NoQuery]) -> Response:
    body = _body_untrusted(call.request.body, CanaryBody, '{"release": "v2", "share": 0.05}')
    service = _writable_service(api, body.service)
    held = _require_index(api, service, body.index)
    before = canary_of(held)
    shares = with_share(before, body.release, round(body.share * ALL_BASIS_POINTS))
    total = sum(share.share for share in shares)
    if total > ALL_BASIS_POINTS:
        others = ", ".join(
            f"{share.release} {share.share / 100:g} %" for share in shares if share.release != body.release
        )
        raise refuse(
            409,
            f"with {body.release} at {body.share:.4g} the shares add up to {total / 100:g} %",
            f"lower another first ({others}), or clear it: rumormill canary clear RELEASE",
        )
    if body.rollout and body.rollout.release != body.release:
        raise refuse(
            409,
            f"the rollout is for {body.rollout.release!r}, but the share is for {body.release!r}",
            "name one release",
        )
    rollout = rollout_from_json(body.rollout) if body.rollout else _abort_rollout(before.rollout, body.release)
    record = _write_canary(api, service, CanaryPolicy(shares, rollout))
    return prepare_json(_canary_answer(api, service, record, _canary_warnings(api, service, body.release)))


async def clear_canary(api: ApiContext, call: RequestContext[CanaryQuery]) -> Response:
    """Remove one candidate release, or all. Its workers then get keys by weight, like those of any other release."""
    service = _writable_service(api, call.query.service)
    before = canary_of(find(api.commands.policies(), service, "canary"))
    release = call.query.release
    if release and all(share.release != release for share in before.shares):
        names = ", ".join(share.release for share in before.shares)
        raise refuse(
            404,
            f"{release!r} is not a candidate",
            f"the candidates are {names}" if names else "there are no candidates",
        )
    shares = [share for share in before.shares if release and share.release != release]
    rollout = before.rollout if before.rollout and any(s.release == before.rollout.release for s in shares) else None
    return prepare_json(_canary_answer(api, service, _write(api, service, CanaryPolicy(shares, rollout))))


def _abort_rollout(rollout: Rollout | None, release: str) -> Rollout | None:
    """A share set by hand aborts the rollout of that release. The program that guides it sees this and stops."""
    if rollout is None or rollout.release != release or rollout.state != "running":
        return rollout
    return msgspec.structs.replace(rollout, state="aborted", why="its share was set by hand")


def _canary_warnings(api: ApiContext, service: str, release: str) -> list[str]:
    if _workers_by_release(api, service).get(release):
        return []
    return [f"no worker of {service!r} that takes work runs release {release!r}: its share goes to the others"]


def _canary_answer(
    api: ApiContext, service: str, record: PolicyRecord | None, warnings: list[str] | None = None
) -> CanaryAnswer:
    body, workers = canary_of(record), _workers_by_release(api, service)
    return CanaryAnswer(
        service=service,
        index=record.counter if record else 0,
        writer=record.writer if record else "",
        at=timestamp(record.at / 1000) if record else "",
        canary=[
            CandidateRow(one.release, one.share / ALL_BASIS_POINTS, workers.get(one.release, 0)) for one in body.shares
        ],
        rest=(ALL_BASIS_POINTS - sum(one.share for one in body.shares)) / ALL_BASIS_POINTS,
        rollout=rollout_to_json(body.rollout) if body.rollout else None,
        warnings=warnings or [],
    )


def _workers_by_release(api: ApiContext, service: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for worker in api.view.service(service).workers:
        if worker.routable:
            counts[worker.release] = counts.get(worker.release, 0) + 1
    return counts


# --- maintenance and zone


async def maintenance(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    service, record = _held_policy(api, call.query, "maintenance")
    return prepare_json(MaintenanceAnswer(service, workers_in_maintenance(record)))


async def set_maintenance(api: ApiContext, call: RequestContext[NoQuery]) -> Response:
    body = _body_untrusted(call.request.body, MaintenanceBody, '{"workers": ["w3"]}')
    service = _writable_service(api, body.service)
    known = {worker.name for worker in api.view.service(service).workers}
    strangers = [name for name in body.workers if name not in known]
    _write(api, service, Maintenance(body.workers))
    warnings = [f"no worker of {service!r} here is called {name!r}" for name in strangers]
    return prepare_json(MaintenanceAnswer(service, body.workers, warnings))


async def zone(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    service, record = _held_policy(api, call.query, "zone")
    return prepare_json(ZoneAnswer(service, preferred_zone(record)))


async def set_zone(api: ApiContext, call: RequestContext[NoQuery]) -> Response:
    body = _body_untrusted(call.request.body, ZoneBody, '{"zone": "a"}')
    service = _writable_service(api, body.service)
    _write(api, service, ZonePreference(body.zone))
    zones = {worker.zone for worker in api.view.service(service).workers}
    empty = body.zone and body.zone not in zones
    return prepare_json(
        ZoneAnswer(service, body.zone, [f"no worker of {service!r} is in zone {body.zone!r}"] if empty else [])
    )


async def history(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    changes = [
        PolicyChange(record.counter, record.service, kind_of(record), record.writer, timestamp(record.at / 1000), text)
        for record, text in api.commands.policy_history()
        if call.query.service in ("", record.service)
    ]
    return prepare_json(HistoryAnswer(changes))


# --- the resulting routing


async def explain_key(api: ApiContext, call: RequestContext[ExplainQuery]) -> Response:
    api.require_pool()
    query = call.query
    view, routing = await routing_for(api, resolve_service(api, query.service))
    return prepare_json(
        explain(
            routing,
            query.key,
            zone=None if query.zone is msgspec.UNSET else query.zone,
            utilization={w.name: w.utilization for w in view.workers if w.utilization is not None},
            liveness={w.name: w.liveness for w in view.workers},
            readiness={w.name: w.readiness for w in view.workers},
        )
    )


async def ring(api: ApiContext, call: RequestContext[RingQuery]) -> Response:
    api.require_pool()
    query = call.query
    _, routing = await routing_for(api, resolve_service(api, query.service))
    key = None if query.key is msgspec.UNSET else query.key
    return prepare(render_ring(routing, key).encode(), media="image/svg+xml")


# --- reading


def _held_policy(api: ApiContext, query: ServiceQuery, kind: PolicyKind) -> tuple[str, PolicyRecord | None]:
    """The service that is asked about, and its record of this kind."""
    api.require_pool()
    service = query.service or require_single_service(api)
    return service, find(api.commands.policies(), service, kind)


# --- writing


def _writable_service(api: ApiContext, named: str) -> str:
    api.require_pool()
    service = named or require_single_service(api)
    if not service:
        raise refuse(409, "no service has a worker here yet", 'name the service: {"service": "embed", …}')
    return service


def _require_index(api: ApiContext, service: str, index: int | None) -> PolicyRecord | None:
    held = find(api.commands.policies(), service, "canary")
    present = held.counter if held else 0
    if index is not None and index != present:
        raise refuse(
            409,
            f"the canary of {service} has changed (its index is {present}, not {index})",
            "read it again: GET /v1/canary",
        )
    return held


def _write_canary(api: ApiContext, service: str, body: CanaryPolicy) -> PolicyRecord:
    """As :func:`_write`. If the reason why a rollout ended makes the policy too long, the reason is left out."""
    rollout = body.rollout
    if rollout is not None and rollout.why:
        with contextlib.suppress(CommandRejected):
            return api.commands.write_policy(service, body)
        body = CanaryPolicy(body.shares, msgspec.structs.replace(rollout, why=""))
    return _write(api, service, body)


def _write(api: ApiContext, service: str, body: PolicyBody) -> PolicyRecord:
    try:
        return api.commands.write_policy(service, body)
    except CommandRejected as error:
        raise refuse(409, error.detail, error.hint) from None


def _body_untrusted(data: bytes, kind: type[B], example: str) -> B:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(400, f"the body is not valid: {_describe_error(error)}", f"send {example}") from None


def _describe_error(error: Exception) -> str:
    text = str(error).replace("`", "")
    if "$.share" in text and "<=" in text:
        return "a share is a fraction: 0.05 is 5 %, and 1 is the most"
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
