"""The table of routes: each with its handler, parameters and answers. Requests are matched against it, and
/openapi.json and the answer at / are generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rumormill.discovery.api import handlers, key_handlers, policy_handlers
from rumormill.discovery.api.format_routes import FORMAT_ROUTES
from rumormill.discovery.api.route import Route
from rumormill.discovery.commands import KeysAnswer, Status
from rumormill.discovery.formats import FormatName, plain_text
from rumormill.discovery.schema import answers, policies
from rumormill.discovery.schema.answers import IndexAnswer, RouteRow
from rumormill.discovery.schema.query_params import (
    AnyQuery,
    CanaryQuery,
    EventsQuery,
    ExplainQuery,
    ForceQuery,
    KeyQuery,
    LookupQuery,
    NoQuery,
    PoolQuery,
    RingQuery,
    ServiceQuery,
    WorkersQuery,
)
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.explain import Explanation

NATIVE_ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        method="GET",
        path="/v1/workers",
        summary="The workers of a service: alive and suspect ones, in every readiness",
        query=WorkersQuery,
        answer=WorkersAnswer,
        handler=handlers.workers,
        problems=(400, 404, 503),
        conditional=True,
        other_media=plain_text.MEDIA,
    ),
    Route(
        method="GET",
        path="/v1/watch",
        summary="The same as server-sent events: a snapshot, then every change",
        query=ServiceQuery,
        answer=None,
        handler=handlers.watch,
        problems=(400, 503),
        media="text/event-stream",
    ),
    Route(
        method="GET",
        path="/v1/lookup",
        summary="The owners of a key, in order of preference",
        query=LookupQuery,
        answer=answers.LookupAnswer,
        handler=handlers.lookup,
        problems=(400, 404, 503),
    ),
    Route(
        method="GET",
        path="/v1/members",
        summary="Every member this sidecar knows, dead and left ones included",
        query=NoQuery,
        answer=answers.MembersAnswer,
        handler=handlers.members,
        problems=(400, 503),
    ),
    Route(
        method="GET",
        path="/v1/pool",
        summary="Capacity, and how many failures the pool can still absorb",
        query=PoolQuery,
        answer=answers.PoolAnswer,
        handler=handlers.pool,
        problems=(400, 503),
        conditional=True,
    ),
    Route(
        method="GET",
        path="/v1/events",
        summary="What happened and why, newest last",
        query=EventsQuery,
        answer=answers.EventsAnswer,
        handler=handlers.events,
        problems=(400, 503),
        conditional=True,
    ),
    Route(
        method="GET",
        path="/v1/status",
        summary="The state of this sidecar",
        query=NoQuery,
        answer=Status,
        handler=handlers.status,
        problems=(400,),
    ),
    Route(
        method="PUT",
        path="/v1/drain",
        summary="Give this sidecar's worker no new work; it completes what it has begun",
        query=NoQuery,
        answer=answers.DrainAnswer,
        handler=handlers.drain,
        problems=(400, 403),
    ),
    Route(
        method="DELETE",
        path="/v1/drain",
        summary="Give this sidecar's worker work again",
        query=NoQuery,
        answer=answers.DrainAnswer,
        handler=handlers.undrain,
        problems=(400, 403, 409),
    ),
    Route(
        method="POST",
        path="/v1/leave",
        summary="Leave the pool permanently; the sidecar ends",
        query=NoQuery,
        answer=answers.LeaveAnswer,
        handler=handlers.leave,
        status=202,
        problems=(400, 403),
    ),
    Route(
        method="POST",
        path="/v1/reload",
        summary="Read the settings again, as SIGHUP does; status says what is not in force",
        query=NoQuery,
        answer=answers.ReloadAnswer,
        handler=handlers.reload,
        status=202,
        problems=(400, 403),
    ),
    Route(
        method="GET",
        path="/v1/keys",
        summary="The group keys by id, and how many members hold each",
        query=NoQuery,
        answer=KeysAnswer,
        handler=key_handlers.keys,
        problems=(400,),
    ),
    Route(
        method="POST",
        path="/v1/keys",
        summary="Install one more group key at every member; needs Rumormill-Key-Proof",
        query=ForceQuery,
        body=key_handlers.KeyBody,
        answer=KeysAnswer,
        handler=key_handlers.install,
        problems=(400, 403, 409),
    ),
    Route(
        method="PUT",
        path="/v1/keys",
        summary="Make a group key the one that all members seal with; needs Rumormill-Key-Proof",
        query=KeyQuery,
        answer=KeysAnswer,
        handler=key_handlers.use,
        problems=(400, 403, 409),
    ),
    Route(
        method="DELETE",
        path="/v1/keys",
        summary="Remove a group key at every member; needs Rumormill-Key-Proof",
        query=KeyQuery,
        answer=KeysAnswer,
        handler=key_handlers.remove,
        problems=(400, 403, 409),
    ),
    Route(
        method="GET",
        path="/v1/canary",
        summary="The releases with a share of the keys of their own, and the rollout that moves it",
        query=ServiceQuery,
        answer=policies.CanaryAnswer,
        handler=policy_handlers.canary,
        problems=(400, 503),
    ),
    Route(
        method="PUT",
        path="/v1/canary",
        summary="Give a release a share of the keys, in the whole pool",
        query=NoQuery,
        body=policies.CanaryBody,
        answer=policies.CanaryAnswer,
        handler=policy_handlers.set_canary,
        problems=(400, 403, 409, 503),
    ),
    Route(
        method="DELETE",
        path="/v1/canary",
        summary="Take a release, or all, out of the candidates",
        query=CanaryQuery,
        answer=policies.CanaryAnswer,
        handler=policy_handlers.clear_canary,
        problems=(400, 403, 404, 409, 503),
    ),
    Route(
        method="GET",
        path="/v1/maintenance",
        summary="The workers that operators keep out of new work",
        query=ServiceQuery,
        answer=policies.MaintenanceAnswer,
        handler=policy_handlers.maintenance,
        problems=(400, 503),
    ),
    Route(
        method="PUT",
        path="/v1/maintenance",
        summary="Set the workers that take no new work, whichever sidecars they belong to",
        query=NoQuery,
        body=policies.MaintenanceBody,
        answer=policies.MaintenanceAnswer,
        handler=policy_handlers.set_maintenance,
        problems=(400, 403, 409, 503),
    ),
    Route(
        method="GET",
        path="/v1/zone",
        summary="The zone preferred by callers that name none",
        query=ServiceQuery,
        answer=policies.ZoneAnswer,
        handler=policy_handlers.zone,
        problems=(400, 503),
    ),
    Route(
        method="PUT",
        path="/v1/zone",
        summary="Choose the zone preferred by callers that name none",
        query=NoQuery,
        body=policies.ZoneBody,
        answer=policies.ZoneAnswer,
        handler=policy_handlers.set_zone,
        problems=(400, 403, 409, 503),
    ),
    Route(
        method="GET",
        path="/v1/policy/history",
        summary="Who changed which policy, and when, as this sidecar learned of it",
        query=ServiceQuery,
        answer=policies.HistoryAnswer,
        handler=policy_handlers.history,
        problems=(400,),
    ),
    Route(
        method="GET",
        path="/v1/explain",
        summary="Why a key goes where it goes: traffic split, zone, ring, load",
        query=ExplainQuery,
        answer=Explanation,
        handler=policy_handlers.explain_key,
        problems=(400, 404, 503),
    ),
    Route(
        method="GET",
        path="/v1/ring",
        summary="A picture of the ring",
        query=RingQuery,
        answer=None,
        handler=policy_handlers.ring,
        problems=(400, 404, 503),
        media="image/svg+xml",
    ),
    Route(
        method="GET",
        path="/livez",
        summary="Whether this sidecar's event loop runs",
        query=AnyQuery,
        answer=answers.HealthAnswer,
        handler=handlers.livez,
        public=True,
    ),
    Route(
        method="GET",
        path="/readyz",
        summary="The worker passes its check, is not draining, and the sidecar hears the pool",
        query=AnyQuery,
        answer=answers.HealthAnswer,
        handler=handlers.readyz,
        unhealthy=True,
        public=True,
    ),
    Route(
        method="GET",
        path="/healthz",
        summary="The same as /livez",
        query=AnyQuery,
        answer=answers.HealthAnswer,
        handler=handlers.livez,
        public=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        summary="The values of /v1/status, for Prometheus",
        query=AnyQuery,
        answer=None,
        handler=handlers.metrics,
        media="text/plain",
    ),
    Route(
        method="GET",
        path="/openapi.json",
        summary="This interface, as OpenAPI 3.1",
        query=NoQuery,
        answer=None,
        handler=handlers.openapi,
        problems=(400,),
        conditional=True,
    ),
    Route(
        method="GET",
        path="/",
        summary="The list of routes",
        query=AnyQuery,
        answer=IndexAnswer,
        handler=handlers.index,
        conditional=True,
    ),
)


ROUTES: Final = (*NATIVE_ROUTES[:-2], *FORMAT_ROUTES, *NATIVE_ROUTES[-2:])


def enabled_routes(disabled: Iterable[FormatName]) -> tuple[Route[Any], ...]:
    """The routes of an endpoint where these formats are turned off."""
    without = set(disabled)
    return tuple(route for route in ROUTES if route.format not in without)


def index_answer(routes: Iterable[Route[Any]] = ROUTES) -> IndexAnswer:
    """The answer at /."""
    return IndexAnswer(
        program="rumormill",
        description="Who is in the pool, and who serves which key. Parameters and answers: /openapi.json",
        routes=[RouteRow(route.method, route.path, route.summary) for route in routes],
    )
