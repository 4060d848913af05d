"""``/metrics``: what the sidecar knows and measures, in Prometheus's text format.

Base units, seconds and bytes. Labels have few values, none of which a stranger can make up. Each help text says what
the figure means and, where it calls for action, what to do. docs/run/monitoring.md has the alerts.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from itertools import accumulate, product
from operator import attrgetter
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from rumormill.discovery.api.counter_families import counter_metrics
from rumormill.discovery.commands import GpuRow, SidecarMeasurements, Status
from rumormill.discovery.http.request_metrics import RequestMetrics
from rumormill.discovery.http.response import PreparedResponse, prepare
from rumormill.discovery.workers import liveness_word, readiness_word
from rumormill.membership.measurements import DATAGRAM_KINDS, GossipMeasurements, Histogram
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.view import Connectivity, PoolView


class EndpointMeasurements(NamedTuple):
    """What the endpoint measures of itself."""

    requests: RequestMetrics
    watchers: int
    """Callers that wait for a change now."""
    routing_changes: int
    scale_out: Mapping[str, bool]
    """By service, whether more workers are wanted. Without those whose load is unknown."""


class _SidecarCollector(Collector):
    """The families of one sidecar at one moment."""

    def __init__(
        self, status: Status, pool: PoolView | None, measurements: SidecarMeasurements, endpoint: EndpointMeasurements
    ) -> None:
        self._status = status
        self._pool = pool
        self._measurements = measurements
        self._endpoint = endpoint

    def collect(self) -> Iterable[Metric]:
        yield from self._identity()
        yield from self._state()
        yield self._members()
        yield from _gpus(self._status.gpus)
        yield self._scale_out()
        yield from _gossip(self._measurements.gossip)
        yield _histogram(
            "loop_lag_seconds",
            "By how much the gossip task woke late. Above 25 ms, heartbeats of this member come late: give it CPU.",
            {(): self._measurements.loop_lag},
        )
        yield from _requests(self._endpoint)
        yield from counter_metrics(self._status.counters)

    def _identity(self) -> Iterable[Metric]:
        status = self._status
        about = GaugeMetricFamily(
            "rumormill_info",
            "What this sidecar is called, as labels; always 1.",
            labels=("name", "cluster", "service", "seal"),
        )
        about.add_metric((status.name, status.cluster, status.service, status.seal), 1)
        yield about
        build = GaugeMetricFamily(
            "rumormill_build_info",
            "What runs here. During an upgrade, two versions side by side are fine.",
            labels=("version", "python"),
        )
        build.add_metric((_version(), platform.python_version()), 1)
        yield build

    def _state(self) -> Iterable[Metric]:
        status = self._status
        for name, text, value in (
            ("sealed", "1 if gossip is sealed, 0 in plaintext: anybody on the network can then forge it.",
             status.seal != "plaintext"),
            ("keys", "Group keys accepted. More than 1 for long: finish the rotation (`rumormill keys list`).",
             status.keys),
            ("joined", "1 if any other member is known. 0: check --join, the firewall and the keys.", status.joined),
            ("isolated", "1 while this sidecar seems to be cut off (isolated, deaf or mute). It then evicts nobody.",
             status.isolated),
            ("draining", "1 while the worker takes no new work.", status.draining),
            ("worker_ready", "1 while new work may be sent to the worker; `rumormill status` says why not.",
             not status.unready),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"rumormill_{name}", text, value=float(value))
        if status.utilization is not None:
            for name, text, known in (
                ("worker_utilization", "How busy the worker is by its engine; 1 is full. Absent if unknown.",
                 status.utilization),
                ("worker_queue", "Requests that wait inside the worker. Absent if unknown.", status.queue),
                ("worker_load_age_seconds", "Seconds since the worker's load was read. Absent if unknown.",
                 status.load_age),
            ):  # fmt: skip
                yield GaugeMetricFamily(f"rumormill_{name}", text, value=float(known or 0))
        if status.certificate_not_after is not None:
            yield GaugeMetricFamily(
                "rumormill_certificate_not_after_timestamp_seconds",
                "When the endpoint's certificate expires. Replace its files before that; the sidecar reads them again.",
                value=status.certificate_not_after,
            )
        connectivity = GaugeMetricFamily(
            "rumormill_connectivity",
            "1 for the current connectivity of this sidecar, 0 for every other state.",
            labels=("state",),
        )
        for state in Connectivity:
            connectivity.add_metric((state.value,), float(state.value == status.connectivity))
        yield connectivity

    def _members(self) -> Metric:
        members = GaugeMetricFamily(
            "rumormill_members",
            "Members known here, this one included. Liveness is what the others conclude, readiness what a member "
            "says of its worker.",
            labels=("liveness", "readiness"),
        )
        known = Counter((m.liveness, m.readiness) for m in (self._pool.members if self._pool is not None else ()))
        for liveness, readiness in product(Liveness, Readiness):
            members.add_metric((liveness_word(liveness), readiness_word(readiness)), known[liveness, readiness])
        return members

    def _scale_out(self) -> Metric:
        wanted = GaugeMetricFamily(
            "rumormill_scale_out",
            "1 if more workers of the service are wanted, as /v1/pool says. Absent if no load is known.",
            labels=("service",),
        )
        for service, more in self._endpoint.scale_out.items():
            wanted.add_metric((service,), more)
        return wanted


def _gpus(rows: Iterable[GpuRow]) -> Iterable[Metric]:
    """Figures that are not known are left out, and so are families without figures."""
    for name, text, figure in (
        (
            "utilization_ratio",
            "Fraction of the last sampling interval in which the GPU computed, 0 to 1.",
            attrgetter("utilization"),
        ),
        ("memory_used_bytes", "Memory of the GPU in use.", attrgetter("memory_used")),
        ("memory_bytes", "Memory of the GPU.", attrgetter("memory_total")),
    ):
        family = GaugeMetricFamily(f"rumormill_gpu_{name}", text, labels=("gpu", "model"))
        for row in rows:
            if (value := figure(row)) is not None:
                family.add_metric((str(row.index), row.name), value)
        if family.samples:
            yield family


def _gossip(gossip: GossipMeasurements) -> Iterable[Metric]:
    directions = (("sent", gossip.sent), ("received", gossip.received))
    labels = ("direction", "kind")
    datagrams = CounterMetricFamily("rumormill_gossip_datagrams", "Datagrams sent, and opened.", labels=labels)
    octets = CounterMetricFamily("rumormill_gossip_bytes", "Their bytes, without IP and UDP headers.", labels=labels)
    for direction, traffic in directions:
        for position, kind in enumerate(DATAGRAM_KINDS):
            datagrams.add_metric((direction, kind), traffic.datagrams[position])
            octets.add_metric((direction, kind), traffic.bytes[position])
    yield datagrams
    yield octets
    yield _histogram(
        "heartbeat_gap_seconds",
        "Time between two heartbeats of a monitored member. Above 225 ms (period and grace) it counts as a miss.",
        {(): gossip.heartbeat_gap},
    )
    yield _histogram("ping_rtt_seconds", "Time from a ping to its ack.", {(): gossip.round_trip})
    yield CounterMetricFamily(
        "rumormill_digest_disagreement_seconds",
        "Time for which the table of a member that sends us heartbeats differed from ours. A steady rise: members do "
        "not agree on the pool.",
        value=gossip.digest_disagreement,
    )


def _requests(endpoint: EndpointMeasurements) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "rumormill_http_requests", "Requests answered by the endpoint, by route and status.", labels=("route", "code")
    )
    for (route, code), count in sorted(endpoint.requests.counts.items()):
        requests.add_metric((route, str(code)), count)
    yield requests
    yield _histogram(
        "http_request_duration_seconds",
        "Time to make an answer. Requests that waited for a change and event streams are not in it.",
        {(route,): histogram for route, histogram in sorted(endpoint.requests.durations.items())},
        labels=("route",),
    )
    yield GaugeMetricFamily(
        "rumormill_http_watchers",
        "Callers that wait for a change: blocked queries and event streams.",
        value=endpoint.watchers,
    )
    yield CounterMetricFamily(
        "rumormill_routing_changes",
        "How often owners of keys have changed, as callers of this endpoint saw it, summed over services.",
        value=endpoint.routing_changes,
    )


def _histogram(
    name: str, text: str, histograms: dict[tuple[str, ...], Histogram], labels: tuple[str, ...] = ()
) -> Metric:
    metric = HistogramMetricFamily(f"rumormill_{name}", text, labels=labels)
    for values, histogram in histograms.items():
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(histogram.counts), strict=True)]
        metric.add_metric(values, buckets, sum_value=histogram.total)
    return metric


@lru_cache(maxsize=1)
def _version() -> str:
    return version("rumormill")


def prepare_metrics(
    status: Status, pool: PoolView | None, measurements: SidecarMeasurements, endpoint: EndpointMeasurements
) -> PreparedResponse:
    """The answer of ``GET /metrics``."""
    collector = _SidecarCollector(status, pool, measurements, endpoint)
    return prepare(generate_latest(collector), media=CONTENT_TYPE_LATEST)
