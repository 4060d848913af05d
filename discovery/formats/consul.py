"""Consul's HTTP API, as far as its clients use it to find services. A worker is a node with one service and one check.

How the pool's words become Consul's:

- **Check status.** *critical*: the worker takes no new work. *warning*: it is suspect, or its readiness is warning.
  *passing*: otherwise. Where no worker of the service is passing, those that would be warning are said to be passing: a
  caller that filters by ``passing`` then still has its last resort, on the cut-off side of a partition too.
- **Index.** It counts this process's changes, above a number that the process has drawn for itself. So an index that
  another sidecar gave is known as foreign, and a query with it is answered soon (ApiContext.block_until_change).
- **Leader.** There is none. ``status/leader`` names this sidecar; KnownLeader is false while it is cut off.
- **Datacenter.** The cluster's label.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

import msgspec

from rumormill.discovery.formats.traffic import Offer, offers, weights_of
from rumormill.discovery.http.response import PreparedResponse
from rumormill.discovery.service_view import ServiceView
from rumormill.discovery.workers import unroutable_reason
from rumormill.ring.worker import Worker

CheckStatus = Literal["passing", "warning", "critical"]
NORMAL_WEIGHT: Final = 100
MAX_WEIGHT: Final = 65535
_INDEX_BITS: Final = 20
_UPPER: Final = {"id": "ID"}

_encode = msgspec.json.Encoder().encode


def _consul_name(name: str) -> str:
    """``service_id`` → ``ServiceID``."""
    return "".join(_UPPER.get(part, part.capitalize()) for part in name.split("_"))


class ConsulNode(msgspec.Struct, frozen=True, rename=_consul_name):
    """A worker as a node of Consul's catalog."""

    id: str
    """The member's instance, as a UUID."""
    node: str
    """The member's name."""
    address: str
    """The host of the worker's URL."""
    datacenter: str
    tagged_addresses: dict[str, str]
    meta: dict[str, str]
    """`zone`, `release`, `generation` and `url`."""


class ConsulWeights(msgspec.Struct, frozen=True, rename=_consul_name):
    """How much of the new work the worker is to get. 100 is a normal worker."""

    passing: int
    warning: int


class ConsulService(msgspec.Struct, frozen=True, rename=_consul_name):
    """A worker as a service of a node."""

    id: str
    service: str
    tags: list[str]
    """`zone=…` and `release=…` where there is one, and `KEY=VALUE` for each of the worker's own tags."""
    address: str
    port: int
    meta: dict[str, str]
    """The worker's own tags."""
    weights: ConsulWeights


class ConsulCheck(msgspec.Struct, frozen=True, rename=_consul_name):
    """What the pool concludes about a worker, as a check."""

    node: str
    check_id: str
    name: str
    status: CheckStatus
    output: str
    """Why, in words."""
    service_id: str
    service_name: str
    service_tags: list[str]
    type: str


class ConsulEntry(msgspec.Struct, frozen=True, rename=_consul_name):
    """A row of ``health/service``."""

    node: ConsulNode
    service: ConsulService
    checks: list[ConsulCheck]


class ConsulCatalogEntry(msgspec.Struct, frozen=True, rename=_consul_name):
    """A row of ``catalog/service``."""

    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str]
    node_meta: dict[str, str]
    service_id: str
    service_name: str
    service_tags: list[str]
    service_address: str
    service_port: int
    service_meta: dict[str, str]
    service_weights: ConsulWeights


class ConsulAgent(msgspec.Struct, frozen=True, rename=_consul_name):
    """The answer of ``agent/self``: this sidecar."""

    config: dict[str, Any]
    """`Datacenter`, `NodeName`, `Server` (always true) and `Version`."""
    member: dict[str, Any]
    """`Name` and `Addr`."""
    meta: dict[str, str]


def consul_index(view: ServiceView) -> int:
    """The index of a view as Consul's clients see it: at least 1, and exact in every language's numbers."""
    return first_index(view.process) + view.index


def first_index(process: str) -> int:
    """What a process's own indexes begin above."""
    drawn = int.from_bytes(hashlib.sha256(process.encode()).digest()[:4], "big")
    return drawn << _INDEX_BITS


def health_service(view: ServiceView, *, passing: bool, tags: tuple[str, ...] = ()) -> PreparedResponse:
    """``health/service/NAME``. With tags only the workers that have all of them."""
    rows = [entry for entry in view.derived(entries) if set(tags) <= set(entry.service.tags)]
    if passing:
        rows = [entry for entry in rows if entry.checks[0].status == "passing"]
    return prepare(view, _encode(rows), "ch")


def catalog_service(view: ServiceView, *, tags: tuple[str, ...] = ()) -> PreparedResponse:
    """``catalog/service/NAME``, in the order of ``health/service``."""
    rows = [_catalog_entry(entry) for entry in view.derived(entries) if set(tags) <= set(entry.service.tags)]
    return prepare(view, _encode(rows), "cc")


def catalog_services(view: ServiceView) -> PreparedResponse:
    """``catalog/services``, from the view of all services: each with the tags of its workers."""
    services: dict[str, dict[str, None]] = {}
    for worker in view.workers:
        services.setdefault(worker.service, {}).update(dict.fromkeys(_tags(worker)))
    return prepare(view, _encode({name: list(tags) for name, tags in sorted(services.items())}), "cs")


def health_state(view: ServiceView, state: CheckStatus | Literal["any"]) -> PreparedResponse:
    """``health/state/STATE``, from the view of all services."""
    checks = [check for entry in view.derived(entries) for check in entry.checks if state in ("any", check.status)]
    return prepare(view, _encode(checks), f"c{state}")


def agent_self(view: ServiceView, observer: str, version: str) -> PreparedResponse:
    """``agent/self``: this sidecar, from the view of all services."""
    address = _own_address(view, observer).rpartition(":")[0].strip("[]")
    config = {"Datacenter": view.cluster, "NodeName": observer, "Server": True, "Version": version}
    return prepare(view, _encode(ConsulAgent(config, {"Name": observer, "Addr": address}, {})), "ca")


def agent_services(view: ServiceView, observer: str) -> PreparedResponse:
    """``agent/services``: this sidecar's own worker."""
    own = {entry.service.id: entry.service for entry in view.derived(entries) if entry.node.node == observer}
    return prepare(view, _encode(own), "co")


def status_leader(view: ServiceView, observer: str) -> PreparedResponse:
    """``status/leader``: the gossip address of this sidecar; there is no leader."""
    return prepare(view, _encode(_own_address(view, observer)), "cl")


def prepare(view: ServiceView, body: bytes, suffix: str) -> PreparedResponse:
    """An answer with the headers that Consul's clients read."""
    headers = (
        ("X-Consul-Index", str(consul_index(view))),
        ("X-Consul-KnownLeader", "false" if view.isolated else "true"),
        ("X-Consul-LastContact", "0"),
    )
    return view.prepare(body, suffix, headers=headers)


def entries(view: ServiceView) -> tuple[ConsulEntry, ...]:
    """Every worker of a view with its check: by name, suspects last."""
    offered = view.derived(offers)
    weights = weights_of(offered, normal=NORMAL_WEIGHT, most=MAX_WEIGHT)
    healthy = {offer.worker.service for offer in offered if offer.ready and _status(offer) == "passing"}
    return tuple(
        _entry(view, offer, weights[offer.worker.name], last_resort=offer.worker.service not in healthy)
        for offer in offered
    )


def _entry(view: ServiceView, offer: Offer, weight: int, *, last_resort: bool) -> ConsulEntry:
    worker, tags = offer.worker, _tags(offer.worker)
    status = _status(offer)
    check = ConsulCheck(
        node=worker.name,
        check_id=f"service:{worker.name}",
        name="rumormill",
        status="passing" if status == "warning" and last_resort else status,
        output=_output(offer),
        service_id=worker.name,
        service_name=worker.service,
        service_tags=tags,
        type="gossip",
    )
    weights = ConsulWeights(max(weight, 1), max(weight, 1))
    service = ConsulService(
        worker.name, worker.service, tags, offer.host, offer.port, dict(sorted(worker.tags.items())), weights
    )
    return ConsulEntry(_node(view, offer), service, [check])


def _node(view: ServiceView, offer: Offer) -> ConsulNode:
    worker, raw = offer.worker, offer.worker.instance
    meta = {"zone": worker.zone, "release": worker.release, "generation": str(worker.generation), "url": worker.url}
    uuid = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    return ConsulNode(uuid, worker.name, offer.host, view.cluster, {}, meta)


def _catalog_entry(entry: ConsulEntry) -> ConsulCatalogEntry:
    node, service = entry.node, entry.service
    return ConsulCatalogEntry(
        id=node.id,
        node=node.node,
        address=node.address,
        datacenter=node.datacenter,
        tagged_addresses=node.tagged_addresses,
        node_meta=node.meta,
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags,
        service_address=service.address,
        service_port=service.port,
        service_meta=service.meta,
        service_weights=service.weights,
    )


def _status(offer: Offer) -> CheckStatus:
    if not offer.ready:
        return "critical"
    return "warning" if offer.last_resort or offer.worker.readiness == "warning" else "passing"


def _output(offer: Offer) -> str:
    worker = offer.worker
    if not worker.routable:
        return unroutable_reason(worker)
    if not offer.ready:
        return "its release has no share of the keys"
    return "it is suspect: heartbeats are missing" if offer.last_resort else f"its worker is {worker.readiness}"


def _tags(worker: Worker) -> list[str]:
    about = {"zone": worker.zone, "release": worker.release, **worker.tags}
    return [f"{key}={value}" for key, value in sorted(about.items()) if value]


def _own_address(view: ServiceView, observer: str) -> str:
    return next((worker.address for worker in view.workers if worker.name == observer), "")
