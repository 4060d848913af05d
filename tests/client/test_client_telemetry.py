"""OpenTelemetry's SDK beside a pool: a span for each attempt, the trace at the worker, and metrics."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from callers import KEYED
from limits import LIVENESS_LIMIT
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from stage import answering, die, hang, stage, stage_in_thread

from rumormill.client import AnswerVerdict, Pool, SyncPool
from rumormill.client.rules.hedging import MIN_ANSWERS

EXPORTER = InMemorySpanExporter()
READER = InMemoryMetricReader()


@pytest.fixture(scope="module", autouse=True)
def _sdk() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([READER]))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    EXPORTER.clear()
    yield
    EXPORTER.clear()


def attempts() -> list[ReadableSpan]:
    return [span for span in EXPORTER.get_finished_spans() if span.attributes and "rumormill.worker" in span.attributes]


def counted() -> dict[tuple[Any, Any], int]:
    """Attempts by how they began and ended, since the start of this process."""
    found: dict[tuple[Any, Any], int] = {}
    data = READER.get_metrics_data()
    for resource in data.resource_metrics if data is not None else []:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            if metric.name == "rumormill.client.attempts":
                for point in metric.data.data_points:
                    words = point.attributes or {}
                    found[words["rumormill.attempt"], words["rumormill.outcome"]] = int(point.value)  # type: ignore
    return found


async def test_each_attempt_has_a_span_under_the_callers_and_the_worker_gets_its_trace():
    async with stage() as scene, Pool(scene.urls, "embed") as pool:
        first, second, _ = scene.owners("user-1")
        first.behaviour = answering(503)
        before = counted()
        async with httpx2.AsyncClient(
            transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT
        ) as http:
            with trace.get_tracer("app").start_as_current_span("caller") as caller:
                await http.get("/v1/x?secret=1", headers=KEYED | {"traceparent": "of somebody else"})
        refused, answered = attempts()
        for span, worker, status in ((refused, first, 503), (answered, second, 200)):
            assert span.parent is not None
            assert span.parent.span_id == caller.get_span_context().span_id
            assert span.attributes is not None
            assert span.attributes["rumormill.worker"] == worker.name
            assert span.attributes["http.response.status_code"] == status
            assert span.attributes["server.port"] == worker.port
            assert "secret" not in str(span.attributes["url.full"])
            context, seen = span.get_span_context(), worker.seen[-1].headers["traceparent"]
            assert seen.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
        assert refused.status.status_code is StatusCode.ERROR
        assert answered.attributes is not None
        assert answered.attributes["http.request.resend_count"] == 1
        after = counted()
        assert after["first", "error"] == before.get(("first", "error"), 0) + 1
        assert after["retry", "answered"] == before.get(("retry", "answered"), 0) + 1


@pytest.mark.parametrize(
    ("status", "verdict", "error", "outcome"),
    [
        (200, AnswerVerdict.FAILED, "FAILED", "error"),
        (200, AnswerVerdict.OVERLOADED, "OVERLOADED", "answered"),
        (500, AnswerVerdict.ANSWER, None, "answered"),
        (500, None, "500", "error"),
    ],
)
async def test_the_verdict_of_classify_counts_instead_of_the_status(status, verdict, error, outcome):
    async with stage() as scene, Pool(scene.urls, "embed", classify=lambda _: verdict, replay="never") as pool:
        for worker in scene.workers.values():
            worker.behaviour = answering(status)
        before = counted()
        async with httpx2.AsyncClient(
            transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT
        ) as http:
            await http.post("/", headers=KEYED)
        first = attempts()[0]
        assert first.attributes is not None
        assert first.attributes["http.response.status_code"] == status
        assert first.attributes.get("rumormill.verdict") == (verdict.name if verdict else None)
        assert first.attributes.get("error.type") == error
        assert (first.status.status_code is StatusCode.ERROR) == (error is not None)
        assert counted()["first", outcome] == before.get(("first", outcome), 0) + 1


async def test_a_hedge_belongs_to_the_same_trace_and_the_overtaken_attempt_is_no_error():
    async with stage() as scene, Pool(scene.urls, "embed") as pool:
        first, second, _ = scene.owners("user-1")
        async with httpx2.AsyncClient(
            transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT
        ) as http:
            for _ in range(MIN_ANSWERS):
                await http.get("/", headers=KEYED)
            EXPORTER.clear()
            first.behaviour = hang
            with trace.get_tracer("app").start_as_current_span("caller") as caller:
                assert (await http.get("/", headers=KEYED)).text == second.name
            await first.hung_up.wait()
        by_hedge = {span.attributes["rumormill.hedge"]: span for span in attempts() if span.attributes}
        assert set(by_hedge) == {True, False}
        for span in by_hedge.values():
            assert span.parent is not None
            assert span.parent.span_id == caller.get_span_context().span_id
            assert span.status.status_code is StatusCode.UNSET
        assert by_hedge[False].attributes is not None
        assert by_hedge[False].attributes["rumormill.overtaken"]


def test_a_synchronous_pool_has_the_same_spans():
    with stage_in_thread() as scene, SyncPool(scene.scene.urls, "embed", replay="always") as pool:
        first, second, _ = scene.scene.owners("user-1")
        first.behaviour = die
        with httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=LIVENESS_LIMIT) as http:
            assert http.post("/", content=b"x", headers=KEYED).text == second.name
        failed, answered = attempts()
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.attributes is not None
        assert failed.attributes["error.type"] in ("RemoteProtocolError", "ReadError")
        assert answered.status.status_code is StatusCode.UNSET


def test_without_the_package_or_with_telemetry_off_nothing_of_it_is_loaded():
    program = """
import asyncio, sys
if sys.argv[1] == "missing":
    sys.modules["opentelemetry"] = None
from rumormill.client import Pool

async def main():
    async with Pool("http://127.0.0.1:1", "embed", patience=0, telemetry=sys.argv[1] == "missing") as pool:
        assert pool._require_open().telemetry is None
        assert "rumormill.client.observability.telemetry" not in sys.modules

asyncio.run(main())
"""
    for case in ("missing", "off"):
        subprocess.run(
            [sys.executable, "-c", program, case], check=True, timeout=LIVENESS_LIMIT, stderr=subprocess.PIPE
        )
