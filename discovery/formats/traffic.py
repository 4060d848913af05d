"""What each worker of a service is to get of the new work, as the formats of other programs can say it.

Other programs route by weights, not by keys. A worker's weight here is its part of the keys: its own weight within the
group of its release, times the group's share (ring/traffic_split.py). Without a canary policy it is its own weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from rumormill.discovery.service_view import ServiceView
from rumormill.ring.traffic_split import Group, TrafficSplit
from rumormill.ring.worker import Worker

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Offer(NamedTuple):
    """One worker, as other programs are to see it."""

    worker: Worker
    host: str
    """An IP address or a host name, IPv6 without brackets."""
    port: int
    scheme: str
    weight: float
    """Its part of the new work; 1.0 is a normal worker. 0: it gets none."""
    last_resort: bool
    """Suspect: to be tried last."""

    @property
    def ready(self) -> bool:
        """Whether it takes new work."""
        return self.weight > 0

    @property
    def host_port(self) -> str:
        """HOST:PORT, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def offers(view: ServiceView) -> tuple[Offer, ...]:
    """Every worker of a service whose URL names an address: by name, but suspects last."""
    weights = traffic_weights(view)
    found = [offer for worker in view.workers if (offer := _offer(worker, weights.get(worker.name, 0.0)))]
    return tuple(sorted(found, key=lambda offer: offer.last_resort))


def ready_offers(view: ServiceView) -> tuple[Offer, ...]:
    """Those of :func:`offers` that take new work."""
    return tuple(offer for offer in view.derived(offers) if offer.ready)


def traffic_weights(view: ServiceView) -> dict[str, float]:
    """Each routable worker's part of the new work, by name. They add up to the sum of the workers' own weights."""
    routable = [worker for worker in view.workers if worker.routable]
    own = {worker.name: worker.weight for worker in routable}
    if not view.policy.canary or not routable:
        return own
    split = TrafficSplit(view.policy.canary)
    totals: dict[Group, float] = {}
    for worker in routable:
        group = split.group(worker.release)
        totals[group] = totals.get(group, 0.0) + worker.weight
    shares = {group: split.shares[group] for group in totals}
    whole = sum(shares.values())
    if not whole:  # only groups without a share have workers: the ring uses them too
        return own
    all_weights = sum(totals.values())
    factors = {group: shares[group] / whole * all_weights / totals[group] for group in totals}
    return {worker.name: worker.weight * factors[split.group(worker.release)] for worker in routable}


def integer_weights(weights: Mapping[str, float], *, normal: int, most: int) -> dict[str, int]:
    """Whole numbers in proportion: `normal` for a weight of 1.0, at most `most`, at least 1 for what is above 0.

    If the heaviest would be above `most`, all are scaled down.
    """
    heaviest = max(weights.values(), default=0.0)
    scale = min(normal, most / heaviest) if heaviest else 0.0
    return {name: max(round(weight * scale), 1) if weight > 0 else 0 for name, weight in weights.items()}


def weights_of(offered: Iterable[Offer], *, normal: int, most: int) -> dict[str, int]:
    """:func:`integer_weights` of offers, by the worker's name."""
    return integer_weights({offer.worker.name: offer.weight for offer in offered}, normal=normal, most=most)


def _offer(worker: Worker, weight: float) -> Offer | None:
    try:
        parts = urlsplit(worker.url)
        port = parts.port if parts.port is not None else DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or not port:
        return None
    return Offer(worker, parts.hostname, port, parts.scheme, weight, worker.liveness == "suspect")
