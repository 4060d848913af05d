"""The routes of Consul's HTTP API (formats/consul.py). Blocking queries as Consul has them: ``index`` and ``wait``."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.formats import consul
from rumormill.discovery.http.response import Response, refuse
from rumormill.discovery.schema.query_params import (
    ConsulAgentQuery,
    ConsulHealthQuery,
    ConsulQuery,
    ConsulServiceQuery,
    ConsulStateQuery,
)
from rumormill.discovery.service_view import ALL_SERVICES

VERSION: Final = version("rumormill")
DEFAULT_WAIT: Final = "5m"


async def health_service(api: ApiContext, call: RequestContext[ConsulHealthQuery]) -> Response:
    query = call.query
    await _block(api, call, query, query.service)
    view = api.view.service(query.service)
    passing = query.passing in ("", "1", "t", "true")
    if query.tag:  # not kept: callers may make up tags without end
        return consul.health_service(view, passing=passing, tags=tuple(query.tag))
    return view.derived(consul.health_service, passing=passing)


async def health_state(api: ApiContext, call: RequestContext[ConsulStateQuery]) -> Response:
    await _block(api, call, call.query, ALL_SERVICES)
    return api.view.service(ALL_SERVICES).derived(consul.health_state, call.query.state)


async def catalog_services(api: ApiContext, call: RequestContext[ConsulQuery]) -> Response:
    await _block(api, call, call.query, ALL_SERVICES)
    return api.view.service(ALL_SERVICES).derived(consul.catalog_services)


async def catalog_service(api: ApiContext, call: RequestContext[ConsulServiceQuery]) -> Response:
    query = call.query
    await _block(api, call, query, query.service)
    view = api.view.service(query.service)
    if query.tag:
        return consul.catalog_service(view, tags=tuple(query.tag))
    return view.derived(consul.catalog_service)


async def agent_self(api: ApiContext, call: RequestContext[ConsulAgentQuery]) -> Response:
    _check_datacenter(api, call.query)
    return api.view.service(ALL_SERVICES).derived(consul.agent_self, api.require_settled().observer, VERSION)


async def agent_services(api: ApiContext, call: RequestContext[ConsulAgentQuery]) -> Response:
    _check_datacenter(api, call.query)
    return api.view.service(ALL_SERVICES).derived(consul.agent_services, api.require_settled().observer)


async def status_leader(api: ApiContext, call: RequestContext[ConsulAgentQuery]) -> Response:
    _check_datacenter(api, call.query)
    return api.view.service(ALL_SERVICES).derived(consul.status_leader, api.require_settled().observer)


async def _block(api: ApiContext, call: RequestContext[object], query: ConsulQuery, topic: str) -> None:
    """Wait while the index is the caller's. An index that another process gave is answered soon."""
    _check_datacenter(api, query)
    if not query.index:
        return
    index = query.index - consul.first_index(api.process)
    ours = 0 < index <= api.index(topic)
    await api.block_until_change(
        call,
        topic,
        index=index if ours else 0,
        process=api.process if ours else "another",
        wait=query.wait or DEFAULT_WAIT,
    )


def _check_datacenter(api: ApiContext, query: ConsulAgentQuery) -> None:
    cluster = api.require_settled().cluster
    if query.dc and query.dc != cluster:
        raise refuse(404, f"there is no datacenter {query.dc!r} here", f"leave dc out, or ask for {cluster!r}")
