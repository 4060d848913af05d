"""The routes of the formats of other programs. Each belongs to a format that a setting may turn off."""

from __future__ import annotations

from typing import Any, Final

from rumormill.discovery.api import consul_handlers, format_handlers
from rumormill.discovery.api.route import Route
from rumormill.discovery.formats import consul, envoy, prometheus, traefik
from rumormill.discovery.schema.query_params import (
    AnyQuery,
    ConsulAgentQuery,
    ConsulHealthQuery,
    ConsulQuery,
    ConsulServiceQuery,
    ConsulStateQuery,
    ServiceQuery,
)

FORMAT_ROUTES: Final[tuple[Route[Any], ...]] = (
    Route(
        method="GET",
        path="/v1/prometheus/targets",
        summary="The workers as targets, for Prometheus' http_sd: alive and suspect ones, in every readiness",
        query=ServiceQuery,
        answer=list[prometheus.TargetGroup],
        handler=format_handlers.prometheus_targets,
        problems=(400, 503),
        conditional=True,
        format="prometheus",
    ),
    Route(
        method="GET",
        path="/v1/health/service/{service}",
        summary="Consul: the workers of a service, each with its check",
        query=ConsulHealthQuery,
        answer=list[consul.ConsulEntry],
        handler=consul_handlers.health_service,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/health/state/{state}",
        summary="Consul: the checks of all workers",
        query=ConsulStateQuery,
        answer=list[consul.ConsulCheck],
        handler=consul_handlers.health_state,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/catalog/services",
        summary="Consul: the services, each with the tags of its workers",
        query=ConsulQuery,
        answer=dict[str, list[str]],
        handler=consul_handlers.catalog_services,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/catalog/service/{service}",
        summary="Consul: the workers of a service, in the order of health/service",
        query=ConsulServiceQuery,
        answer=list[consul.ConsulCatalogEntry],
        handler=consul_handlers.catalog_service,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/agent/self",
        summary="Consul: this sidecar, as an agent",
        query=ConsulAgentQuery,
        answer=consul.ConsulAgent,
        handler=consul_handlers.agent_self,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/agent/services",
        summary="Consul: this sidecar's own worker, as the services of an agent",
        query=ConsulAgentQuery,
        answer=dict[str, consul.ConsulService],
        handler=consul_handlers.agent_services,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/status/leader",
        summary="Consul: the gossip address of this sidecar, because there is no leader",
        query=ConsulAgentQuery,
        answer=str,
        handler=consul_handlers.status_leader,
        problems=(400, 404, 503),
        conditional=True,
        format="consul",
    ),
    Route(
        method="GET",
        path="/v1/traefik",
        summary="Traefik: a dynamic configuration for its HTTP provider",
        query=ServiceQuery,
        answer=traefik.TraefikAnswer,
        handler=format_handlers.traefik_configuration,
        problems=(400, 503),
        format="traefik",
    ),
    *(
        Route(
            method="POST",
            path=f"/v3/discovery:{kind}",
            summary=summary,
            query=AnyQuery,
            body=envoy.EnvoyRequest,
            answer=envoy.EnvoyAnswer,
            handler=handler,
            problems=(400, 503),
            versioned=True,
            format="envoy",
        )
        for kind, summary, handler in (
            ("endpoints", "Envoy, EDS: the workers of services that take new work", format_handlers.envoy_endpoints),
            ("clusters", "Envoy, CDS: a cluster for each service", format_handlers.envoy_clusters),
            ("listeners", "Envoy, LDS: one listener that routes to the clusters", format_handlers.envoy_listeners),
        )
    ),
)
