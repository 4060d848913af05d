"""What answers are evidence of, without a network and in virtual time: breakers, load, budgets."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_client_decisions import selector_of, topology_of, worker

from rumormill.client.rules.response_class import MAX_OVERLOADED_FOR, OVERLOADED_FOR, classify_response
from rumormill.client.rules.retries import RequestState
from rumormill.client.rules.retry_budget import RetryBudget, RetryBudgets
from rumormill.client.selection.breaker import (
    ERRORS_FOR,
    FAILURE_THRESHOLD,
    JITTER,
    MAX_ANSWERS,
    MAX_OPEN,
    UNREACHABLE_FOR,
    Breaker,
    OpenReason,
)
from rumormill.client.selection.worker_selector import WorkerSelector

GOOD, FAILED = classify_response(200), classify_response(500)


def picks(selector: WorkerSelector, now: float, count: int = 600) -> Counter[str]:
    """The workers that this many unkeyed requests pick, one after another."""
    return Counter(selector.pick(None, (), now).name for _ in range(count))


# Status codes.


@pytest.mark.parametrize(
    ("status", "success", "worker_failed", "if_replayable", "if_not"),
    [
        (200, True, False, False, False),
        (204, True, False, False, False),
        (302, True, False, False, False),
        (400, False, False, False, False),
        (404, False, False, False, False),
        (408, False, False, False, False),
        (422, False, False, False, False),
        (429, False, False, True, True),
        (500, False, True, True, False),
        (501, False, False, False, False),
        (502, False, True, True, False),
        (503, False, True, True, True),
        (504, False, True, True, False),
        (505, False, False, False, False),
        (529, False, True, False, False),
    ],
)
def test_what_a_status_says_of_the_worker_and_of_the_request(status, success, worker_failed, if_replayable, if_not):
    response_class = classify_response(status)
    assert (response_class.success, response_class.worker_failed) == (success, worker_failed)
    assert RequestState("GET /", None).is_retryable(response_class) == if_replayable
    assert RequestState("POST /", "no").is_retryable(response_class) == if_not
    assert not RequestState("POST /", "no", one_shot=True).is_retryable(response_class)


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("", OVERLOADED_FOR),
        ("3", 3.0),
        ("0", 0.0),
        ("99999", MAX_OVERLOADED_FOR),
        ("Mon, 30 Nov 2026", OVERLOADED_FOR),
        ("-1", OVERLOADED_FOR),
    ],
)
def test_a_worker_says_how_long_it_is_overloaded(retry_after, seconds):
    assert classify_response(429, retry_after).overloaded_for == seconds


# Breakers.


def failing(breaker: Breaker, times: int, now: float) -> bool:
    return [breaker.record_failure(now) for _ in range(times)][-1]


def test_a_breaker_counts_failures_among_the_last_answers_only():
    breaker = Breaker(random.Random(0))
    assert not failing(breaker, FAILURE_THRESHOLD - 1, 0.0)
    assert breaker.record_failure(9.0)
    breaker = Breaker(random.Random(0))
    assert not failing(breaker, FAILURE_THRESHOLD - 1, 0.0)
    assert not breaker.record_failure(11.0)
    # Six failures among ten answers, within any time.
    assert breaker.record_failure(22.0)
    # One failure in five answers opens nothing.
    breaker = Breaker(random.Random(0))
    for second in range(1000):
        breaker.record_success(second / 10, second / 10)
        assert second % 5 or not breaker.record_failure(second / 10)


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["succeeds", "fails", "is never heard of"]), max_size=30))
def test_a_half_open_breaker_allows_one_probe_and_moves_on_whatever_its_outcome(seed, outcomes):
    breaker = Breaker(random.Random(seed))
    now, pause = 0.0, ERRORS_FOR
    breaker.open(OpenReason.ERRORS, now)
    for outcome in outcomes:
        assert breaker.is_open(now + pause * 0.99)
        now += pause * (1 + JITTER)
        assert not breaker.is_open(now)
        breaker.on_request(now)
        assert breaker.is_open(now)
        pause = min(2 * pause, MAX_OPEN)
        match outcome:
            case "succeeds":
                breaker.record_success(now, now)
                assert breaker.is_closed
                # It fails again within a minute, so it stays open for longer.
                breaker.open(OpenReason.ERRORS, now)
            case "fails":
                breaker.open(OpenReason.ERRORS, now)
    now += pause * (1 + JITTER)
    breaker.on_request(now)
    breaker.record_success(now, now)
    breaker.open(OpenReason.ERRORS, now + MAX_OPEN)
    assert not breaker.is_open(now + MAX_OPEN + ERRORS_FOR * (1 + JITTER))


def test_requests_that_began_before_a_breaker_changed_state_do_not_count():
    selector = selector_of(*(worker(f"w{i}") for i in range(4)))
    one = worker("w0")
    breaker = selector.stats(one).breaker
    selector.record_unreachable(one, 0.0, 1.0)
    selector.record_unreachable(one, 0.5, 1.1)
    selector.record_answer(one, GOOD, 0.5, 1.1)
    assert not breaker.is_closed
    assert not breaker.is_open(1.0 + UNREACHABLE_FOR * (1 + JITTER))
    selector.record_answer(one, GOOD, 2.5, 2.6)
    assert breaker.is_closed
    selector.record_unreachable(one, 2.5, 2.7)
    assert breaker.is_closed


def test_any_answer_closes_a_breaker_that_opened_for_unresponsiveness():
    selector = selector_of(worker("w0"), worker("w1"))
    selector.record_no_answer(worker("w0"), 0.0, 1.0)
    assert selector.stats(worker("w0")).breaker.is_open(1.2)
    selector.record_answer(worker("w0"), GOOD, 0.0, 1.2)
    assert selector.stats(worker("w0")).breaker.is_closed


# Failing workers.


@pytest.mark.parametrize("key", [None, "k"])
def test_a_failing_worker_is_avoided_after_five_answers_and_has_its_share_again_when_it_is_well(key):
    workers = [worker(f"w{i}") for i in range(3)]
    selector = selector_of(*workers)
    sick = selector.pick("k", (), 0.0)
    asked, now = 0, 0.0
    while now < 100:
        one = selector.pick(key, (), now)
        asked += one == sick
        selector.record_answer(one, FAILED if one == sick else GOOD, now, now)
        now += 0.01
    # Five requests, and one probe after 5, 10, 20 and 40 s.
    assert asked <= FAILURE_THRESHOLD + 4
    well_at = now
    while selector.stats(sick).breaker.is_open(now):
        now += 1.0
    assert now - well_at <= MAX_OPEN * (1 + JITTER)
    while selector.pick(key, (), now) != sick:
        pass
    selector.record_answer(sick, GOOD, now, now)
    assert picks(selector, now)[sick.name] > 150
    assert selector.pick("k", (), now) == sick


def test_a_worker_that_passes_its_check_again_is_probed_at_once():
    one = worker("w0")
    selector = selector_of(one, worker("w1"))
    selector.record_unreachable(one, 0.0, 0.0)
    selector.update(topology_of(worker("w0", readiness="critical"), worker("w1")), 0.1)
    assert selector.stats(one).breaker.is_open(0.2)
    selector.update(topology_of(one, worker("w1")), 0.3)
    assert not selector.stats(one).breaker.is_open(0.3)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 499, 501])
def test_a_storm_of_the_callers_own_errors_opens_no_breaker(status):
    selector = selector_of(worker("w0"), worker("w1"), worker("w2"))
    for step in range(1000):
        one = selector.pick(None, (), step / 100)
        selector.record_answer(one, classify_response(status), step / 100, step / 100)
    assert min(picks(selector, 10.0).values()) > 150


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_errors_alone_open_the_breakers_of_at_most_half_of_the_workers(size, seed):
    workers, rng = [worker(f"w{i}") for i in range(size)], random.Random(seed)
    selector = selector_of(*workers)
    told = [selector.record_answer(rng.choice(workers), FAILED, step / 100, step / 100) for step in range(300)]
    held = [one for one in workers if selector.stats(one).breaker.is_open(3.0)]
    assert len(held) == size // 2
    assert not all(told)
    left = max(size - 2, 1)
    selector.update(topology_of(*workers[:left]), 3.0)
    assert sum(selector.stats(one).breaker.is_open(3.0) for one in workers[:left]) <= left // 2


def test_a_quick_failure_does_not_look_like_an_idle_worker():
    workers = [worker(f"w{i}") for i in range(2)]
    selector = selector_of(*workers)
    for _ in range(3):
        selector.begin_request(workers[1])
        selector.record_answer(workers[0], FAILED, 1.0, 1.0)
    assert picks(selector, 1.0)["w0"] < 400
    selector.record_answer(workers[0], FAILED, 1.0, 1.0)
    assert picks(selector, 1.0)["w0"] < 200


def test_an_overloaded_worker_is_skipped_for_as_long_as_it_says_and_then_probed_once():
    workers = [worker(f"w{i}") for i in range(3)]
    selector = selector_of(*workers)
    for _ in range(100):
        selector.record_answer(workers[0], classify_response(429, "3"), 0.0, 0.0)
    assert selector.stats(workers[0]).breaker.is_closed
    assert picks(selector, 2.9)["w0"] == 0
    assert picks(selector, 3.0)["w0"] == 1
    # An answer to an earlier request says nothing about its load now.
    selector.record_answer(workers[0], GOOD, 1.0, 3.1)
    assert picks(selector, 3.1)["w0"] == 0
    selector.record_answer(workers[0], GOOD, 3.0, 3.2)
    assert picks(selector, 3.2)["w0"] > 150


# Budgets.


def test_a_budget_is_refilled_by_its_share_and_by_time_and_saves_up_no_more_than_its_burst():
    budget = RetryBudget(0.0, share=0.02, per_second=1.0, burst=100.0, initial=10.0)
    assert sum(budget.try_withdraw(0.0) for _ in range(1000)) == 10
    for _ in range(500):
        budget.deposit(5.0)
    assert sum(budget.try_withdraw(5.0) for _ in range(1000)) == pytest.approx(15, abs=1)
    assert sum(budget.try_withdraw(1e6) for _ in range(1000)) == 100
    budget.refund(3)
    assert sum(budget.try_withdraw(1e6) for _ in range(1000)) == 3


def test_after_errors_a_worker_is_on_trial_for_ten_answers():
    breaker = Breaker(random.Random(0))
    breaker.open(OpenReason.ERRORS, 0.0)
    breaker.record_success(10.0, 10.0)
    assert breaker.is_closed
    for _ in range(MAX_ANSWERS - 1):
        breaker.record_success(11.0, 11.0)
    assert breaker.record_failure(11.0), "one failure is enough"
    breaker.open(OpenReason.ERRORS, 11.0)
    breaker.record_success(20.0, 20.0)
    for _ in range(MAX_ANSWERS):
        breaker.record_success(21.0, 21.0)
    assert not breaker.record_failure(21.0), "the trial is over"


def test_hedges_of_slow_requests_are_two_in_a_hundred_requests():
    budgets = RetryBudgets(0.0)
    hedged = 0
    for request in range(10_000):
        budgets.record_request(request / 100)
        hedged += budgets.slow_hedges.try_withdraw(request / 100)
    assert hedged <= 201


def test_retries_that_help_cost_nothing_and_in_a_total_outage_they_end():
    budgets = RetryBudgets(0.0)
    for request in range(10_000):
        assert budgets.retries.try_withdraw(request / 100)
        budgets.record_success(request / 100, 1)
    assert sum(budgets.retries.try_withdraw(100 + request / 200) for request in range(2_000)) <= 131
