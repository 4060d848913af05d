"""The verdict of chaos: the error budget, the time to recover, and what a pool is too small for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from rumormill.cli.chaos.objectives import FaultTimes, judge
from rumormill.cli.chaos.page import render_chaos_page
from rumormill.cli.chaos.run import guard_reason
from rumormill.cli.chaos.schedule import AbortSpec, ObjectivesSpec, TimeSpan
from rumormill.cli.demo.request_log import RequestOutcome

SPEC = ObjectivesSpec()


def steady(until: float, *, rate: float = 100.0) -> Iterator[RequestOutcome]:
    """A request every 10 ms from the start, each answered after 5 ms."""
    for number in range(int(until * rate)):
        yield RequestOutcome(number / rate, number / rate + 0.005, "w1")


def kill(at: float, *, left: int = 4, lasts: float = 5.0) -> FaultTimes:
    return FaultTimes("kill", "w2", at, left, evicted=at + 0.6, undone=at + lasts, rejoined=at + lasts + 1.0)


def test_a_fault_that_nobody_notices_meets_every_objective() -> None:
    verdict = judge([kill(20.0)], list(steady(60.0)), SPEC)
    assert verdict.ok
    assert verdict.sentence == "Every objective met: 1 faults, 0 of 6000 requests failed, 0% of the error budget spent."
    assert verdict.faults[0].recovery == 0.0
    assert verdict.faults[0].rejoin == 1.0


def test_recovery_lasts_until_the_last_failed_or_slow_request() -> None:
    failed = RequestOutcome(20.1, 20.4, None, "refused")
    slow = RequestOutcome(20.2, 22.5, "w1")
    verdict = judge([kill(20.0)], [*steady(60.0), failed, slow], SPEC)
    assert verdict.faults[0].recovery == 2.5
    assert verdict.faults[0].bad == 2
    assert verdict.ok
    assert verdict.budget_spent == pytest.approx(1 / 6.002)


def test_a_budget_that_is_overspent_misses() -> None:
    failed = [RequestOutcome(20.0 + n / 10, 20.05 + n / 10, None, "refused") for n in range(10)]
    verdict = judge([kill(20.0)], [*steady(60.0), *failed], SPEC)
    assert not verdict.ok
    assert "requests answered rightly" in verdict.sentence
    assert verdict.budget_spent > 1


def test_a_wrong_answer_counts_as_a_failed_one() -> None:
    wrong = [RequestOutcome(20.0, 20.05, "w1", wrong="another text's") for _ in range(10)]
    assert not judge([kill(20.0)], [*steady(60.0), *wrong], SPEC).ok


def test_no_requests_meet_no_objective() -> None:
    assert not judge([kill(20.0)], [], SPEC).ok


def test_a_member_that_never_comes_back_misses() -> None:
    fault = kill(20.0)
    fault.rejoined = None
    verdict = judge([fault], list(steady(60.0)), SPEC)
    assert "every member gets work again" in verdict.sentence


def test_a_pool_of_one_is_too_small_and_the_verdict_says_so() -> None:
    failed = [RequestOutcome(20.0 + n / 100, 20.005 + n / 100, None, "no worker") for n in range(500)]
    verdict = judge([kill(20.0, left=0)], [*steady(20.0), *failed], SPEC)
    assert "The pool is too small: no worker was left during the kill of w2." in verdict.sentence


def test_workers_that_cannot_carry_the_load_are_named_as_the_reason() -> None:
    slow = [RequestOutcome(20.0 + n / 100, 22.0 + n / 100, "w1") for n in range(300)]
    verdict = judge([kill(20.0, left=1)], [*steady(20.0), *slow], SPEC)
    assert "too small for this load: with 1 workers left during the kill of w2" in verdict.sentence


def test_the_next_faults_requests_are_not_this_ones() -> None:
    failed = RequestOutcome(28.0, 28.1, None, "refused")
    first, second = judge([kill(20.0), kill(27.0)], [*steady(60.0), failed], SPEC).faults
    assert (first.bad, second.bad) == (0, 1)


def test_the_guard_needs_some_requests_and_more_failures_than_allowed() -> None:
    abort = AbortSpec(errors=0.01, over=TimeSpan(10.0))
    failed = [RequestOutcome(0.0, 0.1, None, "refused")]
    right = list(steady(2.0))
    assert guard_reason(failed, abort) == ""
    assert guard_reason([*right, *failed * 2], abort) == ""
    assert "3 of the 203 requests of 10 s failed, more than 1.00%" in guard_reason([*right, *failed * 3], abort)


def test_the_page_stands_alone_and_shows_each_fault() -> None:
    outcomes = [*steady(60.0), RequestOutcome(20.1, 20.4, None, "<refused>")]
    page = render_chaos_page(judge([kill(20.0)], outcomes, SPEC), outcomes, 0.0)
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert page.count("<title>kill of w2</title>") == 2
    assert "&lt;refused&gt;" in page
    assert page.count("<svg") == 3
