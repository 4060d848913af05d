"""Targets for Prometheus' ``http_sd``: every present worker, in every readiness.

A worker that is suspect, draining or critical stays in the list, so that its figures of the bad time are kept. A worker
that the pool has evicted, or that has left, is not in it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from rumormill.discovery.formats.traffic import Offer, offers
from rumormill.discovery.http.response import PreparedResponse
from rumormill.discovery.service_view import ServiceView

PREFIX: Final = "__meta_rumormill_"
_NO_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


class TargetGroup(msgspec.Struct, frozen=True):
    """One worker, as ``http_sd`` takes it."""

    targets: list[str]
    """HOST:PORT of the worker, from its URL."""
    labels: dict[str, str]
    """`__scheme__`, and `__meta_rumormill_*`: what the pool knows of it."""


def targets(view: ServiceView) -> PreparedResponse:
    """The answer of ``GET /v1/prometheus/targets``."""
    groups = [TargetGroup([offer.host_port], _labels(view, offer)) for offer in view.derived(offers)]
    return view.prepare(msgspec.json.encode(groups), "m")


def _labels(view: ServiceView, offer: Offer) -> dict[str, str]:
    worker = offer.worker
    known = {
        "cluster": view.cluster,
        "name": worker.name,
        "service": worker.service,
        "zone": worker.zone,
        "release": worker.release,
        "liveness": worker.liveness,
        "readiness": worker.readiness,
        "weight": f"{worker.weight:g}",
        "generation": str(worker.generation),
        "instance": worker.instance,
        "url": worker.url,
        "gossip": worker.address,
        **{f"tag_{_NO_LABEL.sub('_', key)}": value for key, value in worker.tags.items()},
    }
    return {"__scheme__": offer.scheme, **{PREFIX + name: value for name, value in known.items()}}
