"""Gates of a rollout: what is one, what it asks Prometheus and the client's figures, and what it makes of the answers.

Prometheus is a third party's program: here a server answers in the format its documentation gives
(https://prometheus.io/docs/prometheus/latest/querying/api/), with what the real one (2.42) was seen to answer.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import LIVENESS_LIMIT

from rumormill.cli.exit_codes import BadRequest
from rumormill.cli.gates import (
    ClientFiguresSource,
    MetricSourceError,
    MetricUnavailable,
    Prometheus,
    RolloutGate,
    check_command_runs,
    parse_gate,
    run_command,
)
from rumormill.cli.shares import parse_share


class Answering(BaseHTTPRequestHandler):
    asked: list[str]
    status: int
    body: bytes

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked.append(f"{self.path} {form['query'][0]}")
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(body: object, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler = type("Handler", (Answering,), {"asked": asked, "status": status, "body": encoded})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def vector(*values: str) -> dict[str, object]:
    result = [{"metric": {}, "value": [1763712000.1, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


@pytest.mark.parametrize(
    ("text", "metric", "compare", "limit"),
    [
        ("p99<300ms", "p99", "<", 0.3),
        ("p50 <= 1.5s", "p50", "<=", 1.5),
        ("errors<.1%", "errors", "<", 0.001),
        ("errors<0.01", "errors", "<", 0.01),
        ("requests>100", "requests", ">", 100.0),
        ("promql: sum(up) > 2", "promql", ">", 2.0),
        ("promql:a{x='<'} < -1.5", "promql", "<", -1.5),
    ],
)
def test_a_gate_is_parsed(text: str, metric: str, compare: str, limit: float) -> None:
    gate = parse_gate(text)
    assert (gate.text, gate.metric, gate.compare) == (text, metric, compare)
    assert gate.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99",
        "p99<",
        "p99<5%",
        "p99<300",
        "errors<1ms",
        "requests>1s",
        "errors<5",
        "errors<=100%",
        "p42<1s",
        "promql: up",
        "exec: ",
    ],
)
def test_an_invalid_gate_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_gate(text)


@given(st.text(max_size=40))
def test_any_text_is_a_gate_or_a_clear_error(text: str) -> None:
    with suppress(BadRequest):
        assert parse_gate(text).text == text


@given(st.integers(0, 10_000))
def test_every_share_to_the_hundredth_of_a_percent_is_read_as_written(share: int) -> None:
    assert parse_share(f"{share / 100:g}%") == share / 10_000 == parse_share(f"{share / 100:.2f}")


@given(st.text(max_size=12))
def test_any_text_is_a_share_or_a_clear_error(text: str) -> None:
    with suppress(BadRequest):
        assert 0 <= parse_share(text) <= 1


P99 = parse_gate("p99<300ms")


def test_prometheus_is_asked_for_the_release_and_its_value_is_read() -> None:
    with answering(vector("0.25")) as (url, asked):
        prometheus = Prometheus(url)
        assert prometheus.value(P99, "embed", 'v"2') == 0.25
        assert prometheus.value(parse_gate("errors<1%"), "embed", "v2") == 0.25
        own = parse_gate("promql: sum(rate(x{release='{release}',service='{service}'}[{window}])) < 5")
        assert prometheus.value(own, "embed", "v2") == 0.25
    assert all(one.startswith("/api/v1/query ") for one in asked)
    assert "histogram_quantile(0.99, sum by (le)" in asked[0]
    assert r'service="embed",release="v\"2"' in asked[0]
    assert 'outcome=~"error|hung"' in asked[1]
    assert asked[2].endswith("sum(rate(x{release='v2',service='embed'}[1m]))")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (vector(), 200, "no value yet"),
        (vector("NaN"), 200, "no traffic yet"),
        (vector("1", "2"), 200, "returns 2 values"),
        ({"status": "error", "errorType": "bad_data", "error": "parse error"}, 400, "parse error"),
        (b"<html>", 200, "does not answer like Prometheus"),
        ({"status": "success", "data": {"resultType": "vector", "result": [7]}}, 200, "no value yet"),
        ({"status": "success", "data": {"resultType": "matrix", "result": [{"values": []}]}}, 200, "no value yet"),
    ],
)
def test_an_unusable_answer_of_prometheus_is_reported(body: object, status: int, words: str) -> None:
    with answering(body, status) as (url, _), pytest.raises(MetricUnavailable, match=words):
        Prometheus(url).value(P99, "embed", "v2")


def test_a_scalar_is_a_figure_and_a_server_that_is_away_is_none() -> None:
    with answering({"status": "success", "data": {"resultType": "scalar", "result": [1763712000, "4"]}}) as (url, _):
        assert Prometheus(url).value(parse_gate("promql: 4 < 5"), "embed", "v2") == 4.0
    with pytest.raises(MetricUnavailable, match="does not answer"):
        Prometheus(url).value(P99, "embed", "v2")


OWN = {"service": "embed", "releases": {"v2": {"requests": 200, "errors": 1, "p99": 0.2}, "v1": {"requests": 0}}}


def test_the_clients_own_figures_from_a_file_and_a_url(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(OWN))
    with answering(OWN) as (url, _):
        for place in (str(path), url):
            figures = ClientFiguresSource(place)
            assert figures.value(P99, "embed", "v2") == 0.2
            assert figures.value(parse_gate("errors<1%"), "embed", "v2") == 0.005
            assert figures.value(parse_gate("requests>1"), "embed", "v2") == 200
            for gate, service, release in (
                (P99, "embed", "v1"),
                (P99, "embed", "v9"),
                (P99, "rank", "v2"),
                (parse_gate("p50<1s"), "embed", "v2"),
            ):
                with pytest.raises(MetricUnavailable):
                    figures.value(gate, service, release)
    path.write_text("no json")
    with pytest.raises(MetricUnavailable, match="does not hold"):
        ClientFiguresSource(str(path)).value(P99, "embed", "v2")
    path.write_text(json.dumps({**OWN, "at": time.time() - 61, "window": 60.0}))
    with pytest.raises(MetricUnavailable, match="61 s old"):
        ClientFiguresSource(str(path)).value(P99, "embed", "v2")
    with pytest.raises(MetricUnavailable, match="cannot be read"):
        ClientFiguresSource(str(tmp_path / "none")).value(P99, "embed", "v2")


def test_a_command_gets_service_release_and_share() -> None:
    gate = RolloutGate("exec: …", "exec", query='echo "$RUMORMILL_SERVICE $RUMORMILL_RELEASE $RUMORMILL_SHARE"; exit 3')
    assert run_command(gate, "embed", "v2", 0.05) == (False, "code 3, embed v2 0.05")


def test_a_missing_command_is_not_taken_for_a_failed_one(tmp_path: Path) -> None:
    script = tmp_path / "compare.sh"
    script.write_text("exit 1\n")
    for query, found in (("exit 1", True), (f"sh {script}", True), (str(script), False), ("no-such-command", False)):
        gate = RolloutGate("exec: …", "exec", query=query)
        with nullcontext() if found else pytest.raises(MetricSourceError, match="code 12"):
            check_command_runs(gate, "embed", "v2")


def test_a_command_that_takes_too_long_is_ended_with_all_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell alone was killed: what it had started went on, held its output, and was waited for."""
    monkeypatch.setattr("rumormill.cli.gates.COMMAND_SECONDS", 0.5)
    started = tmp_path / "started"
    gate = RolloutGate("exec: …", "exec", query=f"sleep 60 & echo $! > {started}; sleep 60; true")
    begun = time.monotonic()
    assert run_command(gate, "embed", "v2", 0.05) == (False, "took longer than 0.5 s")
    assert time.monotonic() - begun < LIVENESS_LIMIT
    try:
        child = os.pidfd_open(int(started.read_text()))
    except ProcessLookupError:
        return
    with os.fdopen(child) as ended:
        assert select.select([ended], [], [], LIVENESS_LIMIT)[0]
