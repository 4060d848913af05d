"""``/metrics``: the values of ``/v1/status`` in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rumormill.discovery.commands import Status
from rumormill.discovery.http.response import PreparedResponse, prepare
from rumormill.membership.view import Connectivity


class _StatusCollector(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status
        about = GaugeMetricFamily("rumormill_info", "Who this is.", labels=("name", "cluster", "service", "seal"))
        about.add_metric((status.name, status.cluster, status.service, status.seal), 1)
        yield about
        for name, text, value in (
            ("sealed", "1 where gossip is sealed, 0 in plaintext.", status.seal != "plaintext"),
            ("keys", "Group keys accepted.", status.keys),
            ("peers", "Other members held alive, and not suspect.", status.peers),
            ("suspects", "Members held suspect.", status.suspects),
            ("joined", "1 where any other member is known.", status.joined),
            ("isolated", "1 while this sidecar is cut off, as it seems: isolated, deaf or mute.", status.isolated),
            ("draining", "1 while the worker takes no new work.", status.draining),
            ("loop_lag_seconds", "By how much the loop lately woke late: a maximum that decays.", status.loop_lag),
        ):
            yield GaugeMetricFamily(f"rumormill_{name}", text, value=float(value))
        if status.certificate_not_after is not None:
            yield GaugeMetricFamily(
                "rumormill_certificate_not_after_timestamp_seconds",
                "When the endpoint's certificate ends.",
                value=status.certificate_not_after,
            )
        stands = GaugeMetricFamily(
            "rumormill_connectivity", "1 for how this sidecar stands to the others.", labels=("state",)
        )
        for state in Connectivity:
            stands.add_metric((state.value,), float(state.value == status.connectivity))
        yield stands
        happened = CounterMetricFamily(
            "rumormill_happened", "Datagrams, requests and happenings since the start.", labels=("what",)
        )
        for what, count in sorted(status.counters.items()):
            happened.add_metric((what,), count)
        yield happened


def prepare_metrics(status: Status) -> PreparedResponse:
    """The answer of ``GET /metrics``."""
    return prepare(generate_latest(_StatusCollector(status)), media=CONTENT_TYPE_LATEST)
