"""Traefik's dynamic configuration, for its HTTP provider: a router and a load balancer for each service.

Traefik knows the weights here, unlike in its provider for Consul, and retries at another worker what it could not send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from rumormill.discovery.formats.traffic import ready_offers, weights_of
from rumormill.discovery.http.response import PreparedResponse, prepare
from rumormill.discovery.service_view import ServiceView, connectivity_headers

NORMAL_WEIGHT: Final = 100
MAX_WEIGHT: Final = 65535
RETRY: Final = "rumormill-retry"
ATTEMPTS: Final = 8
"""Traefik may choose the same dead worker again: of three workers it does so eight times for one request in 6561."""


class TraefikAnswer(msgspec.Struct, frozen=True):
    """A dynamic configuration of Traefik."""

    http: dict[str, Any]
    """`routers` and `services` by the service's name, and the middleware that retries."""


def configuration(services: Sequence[ServiceView]) -> PreparedResponse:
    """The configuration for these services. A service without a worker that takes new work is left out."""
    ready = [view for view in services if view.derived(ready_offers)]
    if not ready:
        return prepare(b'{"http":{}}')
    http = {
        "routers": {view.service: _router(view.service, alone=len(services) == 1) for view in ready},
        "services": {view.service: view.derived(_load_balancer) for view in ready},
        "middlewares": {RETRY: {"retry": {"attempts": ATTEMPTS, "initialInterval": "10ms"}}},
    }
    return prepare(msgspec.json.encode(TraefikAnswer(http)), headers=connectivity_headers(ready[0].connectivity))


def _router(service: str, *, alone: bool) -> dict[str, Any]:
    """By host, or for all requests where there is no other service. A back quote cannot stand in a rule."""
    rule = "PathPrefix(`/`)" if alone else f"Host(`{service.replace('`', '')}`)"
    return {"rule": rule, "service": service, "middlewares": [RETRY]}


def _load_balancer(view: ServiceView) -> dict[str, Any]:
    offered = view.derived(ready_offers)
    heard = [offer for offer in offered if not offer.last_resort] or offered
    weights = weights_of(heard, normal=NORMAL_WEIGHT, most=MAX_WEIGHT)
    servers = [{"url": offer.worker.url, "weight": weights[offer.worker.name]} for offer in heard]
    return {"loadBalancer": {"servers": servers}}
