"""Envoy's REST xDS v3: a cluster per service (CDS), its workers (EDS), and one listener that routes to them (LDS).

- EDS has the workers that take new work and whose URL names an IP address: Envoy takes no host names here. Suspects are
  DEGRADED, and the overprovisioning factor is so high that Envoy uses them only where no other worker is left.
- The version of an answer is a digest of its content. Equal content has the same version at every sidecar, so Envoy may
  change sidecars and still gets a 304.
- The clusters that CDS makes balance by RING_HASH over the header ``Rumormill-Key``, with each worker's name as its
  place. That is Envoy's own ring: docs/run/clients/envoy.md says in which respects it differs from ours.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from rumormill.discovery.formats.traffic import Offer, ready_offers, weights_of
from rumormill.discovery.http.response import PreparedResponse, prepare
from rumormill.discovery.service_view import ServiceView, connectivity_headers

XDS_CLUSTER: Final = "rumormill.localhost"
"""What Envoy's own configuration calls the cluster of sidecars. Envoy sends it as Host, and .localhost is local."""
KEY_HEADER: Final = "Rumormill-Key"
NORMAL_WEIGHT: Final = 1000
MAX_WEIGHT: Final = 400_000
"""Ten thousand endpoints of this weight are within Envoy's limit of 2^32 in all."""
OVERPROVISIONING: Final = 100_000
"""Percent. A thousandth of healthy workers is enough to keep DEGRADED ones out."""
MAX_RETRIES: Final = 1024
"""Concurrent retries of one cluster."""
DEFAULT_LISTEN: Final = "127.0.0.1:10000"

RETRY_UNSENT: Final = "connect-failure,refused-stream,reset-before-request"
RETRY_ALWAYS: Final = RETRY_UNSENT + ",reset"
_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")

Json = dict[str, Any]
TYPES: Final = "type.googleapis.com/"
ENDPOINTS: Final = TYPES + "envoy.config.endpoint.v3.ClusterLoadAssignment"
CLUSTERS: Final = TYPES + "envoy.config.cluster.v3.Cluster"
LISTENERS: Final = TYPES + "envoy.config.listener.v3.Listener"

_encode = msgspec.json.Encoder().encode


class EnvoyNode(msgspec.Struct, frozen=True):
    """Who asks."""

    metadata: dict[str, Any] = {}
    """`rumormill_listen`: HOST:PORT for the listener (127.0.0.1:10000 without it). `rumormill_replay`: `unsent` (the
    default) retries requests that had not been sent to the worker that failed, `always` the sent ones too."""


class EnvoyRequest(msgspec.Struct, frozen=True):
    """A DiscoveryRequest. What Envoy says beyond this is not read."""

    node: EnvoyNode = EnvoyNode()
    resource_names: list[str] = []
    """The services asked for; all if there are none."""
    version_info: str = ""
    """What Envoy has: while that is the present version the answer is a 304."""


class EnvoyAnswer(msgspec.Struct, frozen=True):
    """A DiscoveryResponse."""

    version_info: str
    type_url: str
    resources: list[dict[str, Any]]


class Listen(NamedTuple):
    """What one Envoy wants of its listener."""

    host: str
    port: int
    retry_on: str
    """Envoy's own words for what it retries."""


class Resource(NamedTuple):
    """One resource, encoded."""

    body: bytes
    digest: bytes


def answer(type_url: str, resources: Sequence[Resource], shown_by: ServiceView) -> tuple[str, PreparedResponse]:
    """The version of these resources, and the answer that carries them."""
    version = version_of(resources)
    head = f'{{"version_info":"{version}","type_url":"{type_url}","resources":['.encode()
    body = head + b",".join(resource.body for resource in resources) + b"]}"
    return version, prepare(body, headers=connectivity_headers(shown_by.connectivity))


def version_of(resources: Iterable[Resource]) -> str:
    return hashlib.sha256(b"".join(resource.digest for resource in resources)).hexdigest()[:16]


def single_answer(view: ServiceView) -> tuple[str, PreparedResponse]:
    """The endpoints of one service alone, which is what Envoy asks for in REST."""
    return answer(ENDPOINTS, (view.derived(endpoints),), view)


def endpoints(view: ServiceView) -> Resource:
    """The ClusterLoadAssignment of one service."""
    offered = [offer for offer in view.derived(ready_offers) if _is_ip(offer.host)]
    weights = weights_of(offered, normal=NORMAL_WEIGHT, most=MAX_WEIGHT)
    zones: dict[str, list[Json]] = {}
    for offer in sorted(offered, key=lambda offer: offer.worker.name):
        zones.setdefault(offer.worker.zone, []).append(_endpoint(offer, weights[offer.worker.name]))
    localities = [
        {
            "locality": {"zone": zone},
            "load_balancing_weight": sum(row["load_balancing_weight"] for row in rows),
            "lb_endpoints": rows,
        }
        for zone, rows in sorted(zones.items())
    ]
    return _resource(
        {
            "@type": ENDPOINTS,
            "cluster_name": view.service,
            "endpoints": localities,
            "policy": {"overprovisioning_factor": OVERPROVISIONING},
        }
    )


def cluster(service: str) -> Resource:
    """The Cluster of one service. Its endpoints come by EDS from the same sidecars."""
    return _resource(
        {
            "@type": CLUSTERS,
            "name": service,
            "type": "EDS",
            "connect_timeout": "1s",
            "lb_policy": "RING_HASH",
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            # By default Envoy allows three concurrent retries. A death in a busy pool needs more at once.
            "circuit_breakers": {"thresholds": [{"max_retries": MAX_RETRIES}]},
            "eds_cluster_config": {
                "service_name": service,
                "eds_config": {
                    "resource_api_version": "V3",
                    "api_config_source": {
                        "api_type": "REST",
                        "transport_api_version": "V3",
                        "cluster_names": [XDS_CLUSTER],
                        "refresh_delay": "0.2s",
                        "request_timeout": "1s",
                    },
                },
            },
        }
    )


def listener(services: Sequence[str], listen: Listen) -> Resource:
    """One listener: a virtual host per service, by its name; where there is only one service, for any host.

    Of several services those whose names are no host names have none: Envoy would refuse the whole listener.
    """
    named = [service for service in services if len(services) == 1 or _HOST_NAME.fullmatch(service)]
    domains = {service: ["*"] if len(services) == 1 else [service, f"{service}:*"] for service in named}
    manager = {
        "@type": TYPES + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "rumormill",
        "route_config": {
            "name": "rumormill",
            "virtual_hosts": [_virtual_host(service, domains[service], listen.retry_on) for service in named],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": TYPES + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return _resource(
        {
            "@type": LISTENERS,
            "name": "rumormill",
            "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }
    )


def listen_untrusted(metadata: Json) -> Listen | None:
    """How to listen, from Envoy's node metadata; None if that names no IP address and port, or no known replay."""
    host, _, port = str(metadata.get("rumormill_listen", DEFAULT_LISTEN)).rpartition(":")
    host, replay = host.strip("[]"), metadata.get("rumormill_replay", "unsent")
    if not (
        _is_ip(host) and port.isascii() and port.isdigit() and int(port) < 65536 and replay in ("unsent", "always")
    ):
        return None
    return Listen(host, int(port), RETRY_ALWAYS if replay == "always" else RETRY_UNSENT)


def _virtual_host(service: str, domains: list[str], retry_on: str) -> Json:
    route = {
        "cluster": service,
        "timeout": "0s",
        "hash_policy": [{"header": {"header_name": KEY_HEADER}}],
        "retry_policy": {
            "retry_on": retry_on,
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": TYPES + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": "5",
        },
    }
    return {"name": service, "domains": domains, "routes": [{"match": {"prefix": "/"}, "route": route}]}


def _endpoint(offer: Offer, weight: int) -> Json:
    worker = offer.worker
    about = {"name": worker.name, "release": worker.release, "zone": worker.zone}
    return {
        "endpoint": {
            "address": {"socket_address": {"address": offer.host, "port_value": offer.port}},
        },
        "health_status": "DEGRADED" if offer.last_resort else "HEALTHY",
        "load_balancing_weight": weight,
        "metadata": {"filter_metadata": {"envoy.lb": {"hash_key": worker.name, **about}}},
    }


def _resource(resource: Json) -> Resource:
    body = _encode(resource)
    return Resource(body, hashlib.sha256(body).digest())


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
