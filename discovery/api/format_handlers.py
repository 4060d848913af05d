"""The routes of Prometheus, Traefik and Envoy (formats/prometheus.py, traefik.py, envoy.py)."""

from __future__ import annotations

from typing import Final

import msgspec

from rumormill.discovery.api.context import ApiContext, RequestContext
from rumormill.discovery.formats import envoy, prometheus, traefik
from rumormill.discovery.formats.envoy import EnvoyRequest
from rumormill.discovery.http.response import PreparedResponse, Response, refuse
from rumormill.discovery.schema.query_params import AnyQuery, ServiceQuery
from rumormill.discovery.service_view import ALL_SERVICES

MAX_ASKED: Final = 1024
"""Most services that one request may name."""
_HEADERS: Final = b"Cache-Control: no-store\r\n\r\n"
NOT_CHANGED: Final = PreparedResponse(status=304, headers=_HEADERS, body=b"", headers_and_body=_HEADERS)

_decode = msgspec.json.Decoder(EnvoyRequest).decode


async def prometheus_targets(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    api.require_settled()
    return api.view.service(call.query.service).derived(prometheus.targets)


async def traefik_configuration(api: ApiContext, call: RequestContext[ServiceQuery]) -> Response:
    api.require_settled()
    names = [call.query.service] if call.query.service else api.view.known_names()
    return traefik.configuration([api.view.service(name) for name in names])


async def envoy_endpoints(api: ApiContext, call: RequestContext[AnyQuery]) -> Response:
    request = _request_untrusted(api, call)
    names = list(dict.fromkeys(request.resource_names)) or api.view.known_names()
    if len(names) == 1:
        return _unless_known(request, *api.view.service(names[0]).derived(envoy.single_answer))
    resources = [api.view.service(name).derived(envoy.endpoints) for name in names]
    return _answer(api, request, envoy.ENDPOINTS, resources)


async def envoy_clusters(api: ApiContext, call: RequestContext[AnyQuery]) -> Response:
    request = _request_untrusted(api, call)
    wanted = set(request.resource_names)
    services = [name for name in api.view.known_names() if not wanted or name in wanted]
    return _answer(api, request, envoy.CLUSTERS, [envoy.cluster(service) for service in services])


async def envoy_listeners(api: ApiContext, call: RequestContext[AnyQuery]) -> Response:
    request = _request_untrusted(api, call)
    listen = envoy.listen_untrusted(request.node.metadata)
    if listen is None:
        raise refuse(
            400,
            "the node's metadata does not say how to listen",
            'metadata: {rumormill_listen: "127.0.0.1:10000", rumormill_replay: unsent}; the other replay is always',
        )
    return _answer(api, request, envoy.LISTENERS, [envoy.listener(api.view.known_names(), listen)])


def _request_untrusted(api: ApiContext, call: RequestContext[AnyQuery]) -> EnvoyRequest:
    api.require_settled()
    try:
        request = _decode(call.request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refuse(
            400, f"the body is not a DiscoveryRequest: {error}", "send Envoy's REST request (xDS v3)"
        ) from None
    if len(request.resource_names) > MAX_ASKED:
        raise refuse(400, f"more than {MAX_ASKED} resource names", "ask for fewer, or for all by naming none")
    return request


def _answer(api: ApiContext, request: EnvoyRequest, type_url: str, resources: list[envoy.Resource]) -> Response:
    """The answer, unless Envoy has this version already. It is joined here: who asks for what differs."""
    if request.version_info and request.version_info == envoy.version_of(resources):
        return NOT_CHANGED
    return envoy.answer(type_url, resources, api.view.service(ALL_SERVICES))[1]


def _unless_known(request: EnvoyRequest, version: str, answer: PreparedResponse) -> Response:
    return NOT_CHANGED if request.version_info == version else answer
