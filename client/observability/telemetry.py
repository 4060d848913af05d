"""OpenTelemetry: a span for each attempt, and metrics. Imported only if the package opentelemetry-api is installed.

    pip install 'rumormill[otel]'

A span is a child of the span that is current where the request begins, and its worker gets its `traceparent`. It ends
with the head of the answer. Attributes follow OpenTelemetry's conventions for HTTP clients; those of this project begin
with `rumormill.`. An attempt that was overtaken by another is no error.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from rumormill.client.rules.messages import PoolRequest, RawHeaders
from rumormill.client.rules.response_class import AnswerVerdict, status_like
from rumormill.client.rules.retries import Attempt

SCOPE: Final = "rumormill.client"


class Telemetry:
    """What one pool tells OpenTelemetry."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._tracer = trace.get_tracer(SCOPE)
        meter = metrics.get_meter(SCOPE)
        self._attempts = meter.create_counter(
            "rumormill.client.attempts", "{attempt}", "Attempts at requests, by how they began and how they ended"
        )
        self._duration = meter.create_histogram(
            "rumormill.client.attempt.duration", "s", "Seconds from an attempt's begin to the head of its answer"
        )

    def begin_request(self) -> Context | None:
        """Where the request's spans belong. None while the process has set up no tracing and no metrics."""
        if _is_placeholder(trace.get_tracer_provider()) and _is_placeholder(metrics.get_meter_provider()):
            return None
        return otel_context.get_current()

    def begin_attempt(
        self, parent: Context, request: PoolRequest, attempt: Attempt, server: tuple[str, int], number: int
    ) -> AttemptSpan:
        """`server` is its host and port; `number` counts from 0."""
        worker = attempt.worker
        attributes: dict[str, str | int | bool] = {
            "http.request.method": request.method,
            "url.full": worker.url.rstrip("/") + request.path,
            "server.address": server[0],
            "server.port": server[1],
            "rumormill.service": self._service,
            "rumormill.worker": worker.name,
            "rumormill.hedge": attempt.hedge,
        }
        if number:
            attributes["http.request.resend_count"] = number
        span = self._tracer.start_span(request.method, parent, SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span, parent))
        headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in carrier.items()]
        kind = "hedge" if attempt.hedge else "retry" if number else "first"
        return AttemptSpan(self, span, headers, {"rumormill.service": self._service, "rumormill.attempt": kind})

    def record(self, attributes: dict[str, str], seconds: float) -> None:
        self._attempts.add(1, attributes)
        self._duration.record(seconds, attributes)


class AttemptSpan:
    """One attempt."""

    __slots__ = ("_attributes", "_span", "_telemetry", "headers")

    def __init__(self, telemetry: Telemetry, span: Span, headers: RawHeaders, attributes: dict[str, str]) -> None:
        self.headers = headers
        """For the worker."""
        self._telemetry = telemetry
        self._span = span
        self._attributes = attributes

    def answered(self, status: int, verdict: AnswerVerdict | None, seconds: float) -> None:
        """`verdict` is what the hook `classify` said, if it said anything. It counts instead of the status."""
        self._span.set_attribute("http.response.status_code", status)
        if verdict is not None:
            self._span.set_attribute("rumormill.verdict", verdict.name)
        meant = status_like(status, verdict)
        if meant >= 400:
            self._span.set_attribute("error.type", str(status) if verdict is None else verdict.name)
            self._span.set_status(Status(StatusCode.ERROR))
        self._end("answered" if meant < 500 else "error", seconds)

    def failed(self, what: str, seconds: float) -> None:
        self._span.set_attribute("error.type", what)
        self._span.set_status(Status(StatusCode.ERROR, what))
        self._end("failed", seconds)

    def overtaken(self, seconds: float) -> None:
        """Another attempt was quicker, or the request was given up."""
        self._span.set_attribute("rumormill.overtaken", True)
        self._end("overtaken", seconds)

    def _end(self, outcome: str, seconds: float) -> None:
        self._span.end()
        self._telemetry.record({**self._attributes, "rumormill.outcome": outcome}, seconds)


def _is_placeholder(provider: object) -> bool:
    """Whether it is one of the API package, which records nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
