"""The client's own figures: counts by release over the last minute, in both formats."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rumormill.client.observability.figures import MAX_RELEASES, OTHERS, WINDOW, Figures
from rumormill.client.rules.retries import Attempt, Failure
from rumormill.ring.worker import Worker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from(["v1", "v2"]), st.floats(0, 100), st.booleans()), max_size=50))
def test_counts_and_percentiles_are_those_of_what_was_noted(notes: list[tuple[str, float, bool]]) -> None:
    figures = Figures("embed", clock=Clock())
    for release, seconds, failed in notes:
        figures.note(release, seconds, failed=failed)
    for release, found in figures.figures().items():
        mine = sorted(seconds for name, seconds, _ in notes if name == release)
        assert found.requests == len(mine)
        assert found.errors == sum(failed for name, _, failed in notes if name == release)
        assert None not in (found.p50, found.p90, found.p95, found.p99)
        assert found.p50 in mine
        assert (found.p50 or 0) <= (found.p90 or 0) <= (found.p95 or 0) <= (found.p99 or 0) <= mine[-1]


def test_only_the_last_minute_counts() -> None:
    clock = Clock()
    figures = Figures("embed", clock=clock)
    figures.note("v2", 5.0, failed=True)
    clock.now += WINDOW + 1
    assert figures.figures()["v2"].requests == 0
    assert figures.figures()["v2"].p99 is None
    figures.note("v2", 0.1, failed=False)
    assert (figures.figures()["v2"].requests, figures.figures()["v2"].p99) == (1, 0.1)


def test_releases_are_bounded() -> None:
    figures = Figures("embed")
    for number in range(2 * MAX_RELEASES):
        figures.note(f"v{number}", 0.1, failed=False)
    assert len(figures.figures()) == MAX_RELEASES + 1
    assert figures.figures()[OTHERS].requests == MAX_RELEASES


def test_the_file_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "figures.json"
    figures = Figures("embed", path=path, clock=clock)
    for _ in range(3):
        figures.note("v2", 0.1, failed=False)
    assert json.loads(path.read_text())["releases"]["v2"]["requests"] == 1
    clock.now += 1.0
    figures.note("v2", 0.1, failed=False)
    assert json.loads(path.read_text())["releases"]["v2"]["requests"] == 4


def test_a_file_that_cannot_be_written_fails_no_request(tmp_path: Path) -> None:
    figures = Figures("embed", path=tmp_path / "missing" / "figures.json")
    figures.note("v2", 0.1, failed=False)
    assert figures.figures()["v2"].requests == 1
    with pytest.raises(OSError, match="No such file"):
        figures.write()


def test_prometheus_reads_what_it_writes() -> None:
    figures = Figures('em"bed')
    figures.note("v2\\", 0.02, failed=False)
    figures.note("v2\\", 0.3, failed=True)
    families = {family.name: family for family in text_string_to_metric_families(figures.prometheus())}
    requests = {s.labels["outcome"]: s.value for s in families["rumormill_client_requests"].samples}
    assert requests == {"ok": 1.0, "error": 1.0, "cancelled": 0.0, "hung": 0.0}
    samples = families["rumormill_client_request_seconds"].samples
    assert {s.labels["service"] for s in samples} == {'em"bed'}
    assert {s.labels["release"] for s in samples} == {"v2\\"}
    buckets = [s.value for s in samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 2.0


WORKER = Worker("w1", 1, "00", "embed", "http://w1", "", "v2", 1.0, "alive", "passing", None, {}, "")


class Answers(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Returns what a pool's transport returns: an answer that names its worker, or an error that does."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/broken":
            error = httpx2.ReadError("broke off")
            error.worker = WORKER  # type: ignore[attr-defined]
            raise error
        status = 503 if request.url.path == "/busy" else 404
        return httpx2.Response(status, extensions={"rumormill_worker": WORKER})

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return self.handle_request(request)


def attempt(release: str, what: str = "", *, local_error: bool = False) -> Attempt:
    worker = msgspec.structs.replace(WORKER, name=f"{release}-{what}", release=release)
    failure = Failure(what, sent=True, local_error=local_error) if what else None
    return Attempt(worker, 0.0, failure=failure, running=False)


def test_every_worker_that_was_asked_counts_even_if_another_answered() -> None:
    overtaken, broken, refused = attempt("v3"), attempt("v2", "broke off"), attempt("v4", "mistake", local_error=True)
    answered = Attempt(WORKER, 0.0, running=False)
    attempts = (overtaken, broken, refused, answered)

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/late":
            error = httpx2.ReadTimeout("the caller's own limit")
            error.attempts = (broken,)  # type: ignore[attr-defined]
            raise error
        return httpx2.Response(200, extensions={"rumormill_worker": WORKER, "rumormill_attempts": attempts})

    figures = Figures("embed")
    with httpx2.Client(transport=figures.sync_transport(httpx2.MockTransport(handle)), base_url="http://e") as http:
        http.get("/")
        with pytest.raises(httpx2.ReadTimeout):
            http.get("/late")
    found = {name: (counters.requests, counters.errors) for name, counters in figures.figures().items()}
    assert found == {"v3": (1, 0), "v2": (3, 2)}


async def test_transports_count_who_answered_and_who_failed() -> None:
    figures = Figures("embed")
    with httpx2.Client(transport=figures.sync_transport(Answers()), base_url="http://embed") as http:
        http.get("/missing")
        http.get("/busy")
        with pytest.raises(httpx2.ReadError):
            http.get("/broken")
    async with httpx2.AsyncClient(transport=figures.transport(Answers()), base_url="http://embed") as http:
        await http.get("/missing")
        with pytest.raises(httpx2.ReadError):
            await http.get("/broken")
    found = figures.figures()["v2"]
    assert (found.requests, found.errors) == (5, 3)
