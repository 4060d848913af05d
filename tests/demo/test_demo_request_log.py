"""Figures made of outcomes."""

import pytest

from rumormill.cli.demo.request_log import (
    RequestLog,
    RequestOutcome,
    RequestSummary,
    TimeBucket,
    percentile,
    shares,
    slowest_late,
    summarize,
)


def _outcome(begun: float, seconds: float = 0.01, worker: str | None = "w1", **more: str) -> RequestOutcome:
    return RequestOutcome(begun, begun + seconds, worker, **more)  # type: ignore[arg-type]


def test_a_summary_counts_failed_requests_and_wrong_answers() -> None:
    outcomes = [
        _outcome(0.0, 0.01),
        _outcome(0.1, 0.02),
        _outcome(0.2, 0.5, None, trouble="ConnectError: refused"),
        _outcome(0.3, 0.03, wrong="not the text's"),
        _outcome(0.4, 0.04, None, trouble="ConnectError: refused"),
    ]
    made = summarize(outcomes)
    assert (made.requests, made.failed, made.wrong) == (5, 2, 1)
    assert made.p50 == pytest.approx(0.03)
    assert made.slowest == made.p99 == pytest.approx(0.5)
    assert made.troubles == (("ConnectError: refused", 2), ("not the text's", 1))


def test_the_delay_at_the_slowest_request_is_the_longest_delay_during_it() -> None:
    outcomes = [
        RequestOutcome(1.0, 1.01, "w1", late=0.9),
        RequestOutcome(2.0, 2.5, "w1"),
        RequestOutcome(2.1, 2.11, "w1", late=0.3),
    ]
    assert slowest_late(outcomes) == 0.3
    assert slowest_late([]) == 0.0


def test_figures_of_nothing_are_nothing() -> None:
    assert summarize([]) == RequestSummary()


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10)])
def test_a_percentile_is_a_value_that_was_there(share: float, value: int) -> None:
    assert percentile(range(1, 11), share) == value


def test_a_request_belongs_to_the_time_it_ended_in() -> None:
    request_log = RequestLog()
    across, later = _outcome(0.9, 0.2), _outcome(1.5)
    request_log.add(across)
    request_log.add(later)
    assert request_log.ended_since(0.0, 1.0) == []
    assert request_log.ended_since(1.0) == [across, later]
    assert request_log.recent(1.6, 0.2) == [later]


def test_the_time_line_counts_each_slice_and_its_worst() -> None:
    request_log = RequestLog()
    for begun in (0.0, 0.1, 0.7):
        request_log.add(_outcome(begun, 0.1))
    request_log.add(_outcome(1.0, 0.3, None, trouble="gone"))
    line = request_log.time_line(0.0, 1.5, 0.5)
    assert [(bucket.requests, bucket.failed) for bucket in line] == [(2, 0), (1, 0), (1, 1)]
    assert line[2].slowest == pytest.approx(0.3)
    assert request_log.time_line(0.0, 0.0, 0.5) == []
    assert request_log.time_line(5.0, 5.2, 0.5) == [TimeBucket(0, 0, 0.0)]


def test_shares_are_of_the_answered() -> None:
    outcomes = [_outcome(0, worker=worker) for worker in ("w2", "w1", "w1", None, "w1")]
    assert shares(outcomes) == {"w1": 0.75, "w2": 0.25}
    assert shares([]) == {}
