"""The gates of a guided rollout: the conditions the candidate must meet, and where their values are read.

=====================  ===========================================================================================
``p99<300ms``          p50, p90, p95 or p99 of the candidate's response times, over the last minute
``errors<0.1%``        the part of its requests that failed
``requests>100``       the number of its requests, so that a step cannot pass without traffic
``promql: Q < 5``      any PromQL query Q with one value; {service}, {release} and {window} are filled in
``exec: COMMAND``      a command that must exit with code 0, for instance a check of the quality of the answers. Its
                       environment has RUMORMILL_SERVICE, RUMORMILL_RELEASE and RUMORMILL_SHARE
=====================  ===========================================================================================

Values come from Prometheus (its HTTP API), or from the figures that clients write (client/observability/figures.py), in
a file or at a URL. A missing value neither passes nor fails: the rollout waits for it, for a limited time.
"""

from __future__ import annotations

import math
import operator
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Protocol

import msgspec

from rumormill.cli.exit_codes import BadRequest

WINDOW = "1m"
COMMAND_SECONDS = 600.0
HTTP_SECONDS = 10.0
MAX_FIGURES_BYTES = 1 << 20
COMMAND_NOT_RUN = (126, 127)
"""Exit codes of a shell for a command that it may not run, or cannot find."""
_METRIC = re.compile(r"(p50|p90|p95|p99|errors|requests)\s*(<=|>=|<|>)\s*(\d*\.?\d+)\s*(ms|s|%)?")
_QUERY = re.compile(r"promql:(.+?)(<=|>=|<|>)\s*(-?\d*\.?\d+)\s*", re.DOTALL)
_OPERATORS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_UNITS = {"ms": 0.001, "s": 1.0, "%": 0.01, None: 1.0, "": 1.0}
_SYNTAX_HINT = "write p99<300ms, errors<0.1%, requests>100, 'promql: QUERY < 5' or 'exec: COMMAND'"

QUERIES = {
    "errors": 'sum(rate(rumormill_client_requests_total{{{labels},outcome=~"error|hung"}}[{window}])) / '
    "sum(rate(rumormill_client_requests_total{{{labels}}}[{window}]))",
    "requests": "sum(increase(rumormill_client_requests_total{{{labels}}}[{window}]))",
    "p": "histogram_quantile({quantile}, sum by (le) "
    "(rate(rumormill_client_request_seconds_bucket{{{labels}}}[{window}])))",
}
"""The PromQL of the named metrics. client/observability/figures.py exports the series that they read."""


class MetricUnavailable(Exception):
    """The value is not available now: nothing has been measured yet, or the source does not answer. Says which."""


class MetricSourceError(MetricUnavailable):
    """The source is missing or unusable, so waiting does not help. Says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class RolloutGate:
    """A parsed gate. ``text`` is what the operator wrote."""

    text: str
    metric: str
    """A metric's name, ``promql`` or ``exec``."""
    compare: str = ""
    limit: float = 0.0
    """Seconds, a fraction of 1, or a count."""
    query: str = ""
    """The query, or the command."""

    def passes(self, figure: float) -> bool:
        return bool(_OPERATORS[self.compare](figure, self.limit))

    def describe(self, figure: float) -> str:
        """The value in the unit of the gate."""
        if self.metric.startswith("p") and self.metric != "promql":
            return f"{self.metric} {figure * 1000:.0f} ms"
        if self.metric == "errors":
            return f"errors {figure * 100:.3g} %"
        return f"{self.metric} {figure:.4g}"


def parse_gate(text: str) -> RolloutGate:
    """Raises :class:`BadRequest` for an invalid gate."""
    if text.startswith("exec:"):
        command = text.removeprefix("exec:").strip()
        if not command:
            raise BadRequest(f"the gate {text!r} names no command", _SYNTAX_HINT)
        return RolloutGate(text, "exec", query=command)
    if found := _QUERY.fullmatch(text):
        return RolloutGate(text, "promql", found[2], float(found[3]), found[1].strip())
    found = _METRIC.fullmatch(text.strip())
    if found is None:
        raise BadRequest(f"{text!r} is not a gate", _SYNTAX_HINT)
    metric, compare, number, unit = found.groups()
    expected = {"errors": ("%", None), "requests": (None,)}.get(metric, ("ms", "s"))
    if unit not in expected:
        raise BadRequest(f"the gate {text!r} has the wrong unit", _SYNTAX_HINT)
    limit = float(number) * _UNITS[unit]
    if metric == "errors" and limit >= 1:
        raise BadRequest(f"the gate {text!r} can never fail", "errors are a fraction of all requests: write errors<1%")
    return RolloutGate(text, metric, compare, limit)


class MetricSource(Protocol):
    """Where the value of a metric comes from."""

    def value(self, gate: RolloutGate, service: str, release: str) -> float:
        """Raises :class:`MetricUnavailable`; its subclass :class:`MetricSourceError` if waiting does not help."""
        ...


class PrometheusAnswer(msgspec.Struct):
    """The parts of the answer of ``/api/v1/query`` that are read: one sample of an instant vector, or a scalar."""

    class Data(msgspec.Struct):
        resultType: str = ""  # noqa: N815  Prometheus's name
        result: list[object] = []

    status: str
    data: Data = msgspec.field(default_factory=Data)
    error: str = ""


class Prometheus:
    """A Prometheus server's HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def value(self, gate: RolloutGate, service: str, release: str) -> float:
        import httpx2  # a verb that measures nothing starts without it

        query = self.query(gate, service, release)
        try:
            response = httpx2.post(f"{self._url}/api/v1/query", data={"query": query}, timeout=HTTP_SECONDS)
            answer = msgspec.json.decode(response.content, type=PrometheusAnswer)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise MetricSourceError(f"Prometheus at {self._url} does not answer: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MetricSourceError(f"the server at {self._url} does not answer like Prometheus") from None
        if answer.status != "success":
            raise MetricSourceError(f"Prometheus rejects the query {query!r}: {answer.error}")
        return _sample(answer, gate)

    def query(self, gate: RolloutGate, service: str, release: str) -> str:
        """The PromQL of a gate."""
        labels = f"service={_quoted(service)},release={_quoted(release)}"
        if gate.metric == "promql":
            filled = gate.query.replace("{service}", service).replace("{release}", release)
            return filled.replace("{window}", WINDOW)
        if gate.metric in QUERIES:
            return QUERIES[gate.metric].format(labels=labels, window=WINDOW)
        return QUERIES["p"].format(quantile=int(gate.metric[1:]) / 100, labels=labels, window=WINDOW)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _sample(answer: PrometheusAnswer, gate: RolloutGate) -> float:
    result = answer.data.result
    try:
        if answer.data.resultType == "scalar":
            value = result[1]
        else:
            if len(result) > 1:
                raise MetricSourceError(f"the query of {gate.text!r} returns {len(result)} values; add sum() to it")
            value = result[0]["value"][1]  # type: ignore[index]
        figure = float(str(value))
    except (IndexError, KeyError, TypeError, ValueError):
        raise MetricUnavailable(f"Prometheus has no value yet for {gate.text!r}") from None
    if math.isnan(figure):
        raise MetricUnavailable(f"Prometheus has no traffic yet for {gate.text!r}")
    return figure


class ReleaseEntry(msgspec.Struct):
    """One release in a figures file. Times are in seconds; None means not measured."""

    requests: int = 0
    errors: int = 0
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class FiguresDocument(msgspec.Struct):
    """A figures file, as client/observability/figures.py writes it. Other writers may leave fields out."""

    service: str = ""
    at: float | None = None
    """When it was written, in seconds since 1970."""
    window: float = 60.0
    releases: dict[str, ReleaseEntry] = {}


class ClientFiguresSource:
    """Reads the figures of a client, from a file or a URL."""

    def __init__(self, place: str) -> None:
        self._place = place

    def value(self, gate: RolloutGate, service: str, release: str) -> float:
        try:
            figures = msgspec.json.decode(self._read(), type=FiguresDocument)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MetricSourceError(f"{self._place} does not hold a client's figures: {error}") from None
        age = time.time() - figures.at if figures.at is not None else 0.0
        if age > figures.window:
            raise MetricSourceError(f"the figures at {self._place} are {age:.0f} s old: nobody updates them")
        if figures.service not in ("", service):
            raise MetricSourceError(
                f"{self._place} holds the figures of service {figures.service!r}, not of {service!r}"
            )
        held = figures.releases.get(release)
        if held is None or not held.requests:
            raise MetricUnavailable(f"{self._place} has no request of {service!r} to {release!r} yet")
        match gate.metric:
            case "errors":
                return held.errors / held.requests
            case "requests":
                return float(held.requests)
        figure: float | None = getattr(held, gate.metric, None)
        if figure is None:
            raise MetricUnavailable(f"{self._place} has no value for {gate.metric}")
        return figure

    def _read(self) -> bytes:
        import httpx2

        try:
            if self._place.startswith(("http://", "https://")):
                return httpx2.get(self._place, timeout=HTTP_SECONDS).raise_for_status().content
            with Path(self._place).open("rb") as file:
                return file.read(MAX_FIGURES_BYTES)
        except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise MetricSourceError(f"the figures at {self._place} cannot be read: {error}") from None


def run_command(gate: RolloutGate, service: str, release: str, share: float) -> tuple[bool, str]:
    """Whether the command of an ``exec`` gate exited with code 0, and its last line of output."""
    code, text = _run(gate, service, release, share)
    return code == 0, text


def check_command_runs(gate: RolloutGate, service: str, release: str) -> None:
    """Run the command once, with a share of 0. Raises :class:`MetricSourceError` if the shell cannot run it."""
    code, text = _run(gate, service, release, 0.0)
    if code in COMMAND_NOT_RUN:
        raise MetricSourceError(text)


def _run(gate: RolloutGate, service: str, release: str, share: float) -> tuple[int | None, str]:
    """The command's exit code (None if it was killed for taking too long), and a text that describes the result."""
    environment = {
        **os.environ,
        "RUMORMILL_SERVICE": service,
        "RUMORMILL_RELEASE": release,
        "RUMORMILL_SHARE": f"{share:g}",
    }
    # In a session of its own, so that everything the shell has started can be killed. Otherwise we would wait for it.
    with subprocess.Popen(  # noqa: S602  the operator's own command line, typed for a shell
        gate.query, shell=True, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    ) as process:
        try:
            out, trouble = process.communicate(timeout=COMMAND_SECONDS)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return None, f"took longer than {COMMAND_SECONDS:g} s"
            raise
    lines = (out + trouble).decode(errors="replace").strip().splitlines()
    return process.returncode, f"code {process.returncode}" + (f", {lines[-1][:120]}" if lines else "")
