"""What answers are evidence of, without a network and in virtual time: breakers, load, budgets."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_client_decisions import standings_of, topology_of, worker

from rumormill.client.answers import FULL_FOR, MAX_FULL_FOR, judge
from rumormill.client.breaker import FAILING_FOR, FAILURES, JITTER, LONGEST, UNREACHABLE_FOR, Breaker, Why
from rumormill.client.budget import Budget, Budgets
from rumormill.client.retries import RequestState
from rumormill.client.worker_selector import WorkerSelector

GOOD, FAILED = judge(200), judge(500)


def picks(standings: WorkerSelector, now: float, count: int = 600) -> Counter[str]:
    """Who is asked by so many unkeyed requests that are each over before the next begins."""
    return Counter(standings.pick(None, (), now).name for _ in range(count))


# What a status says.


@pytest.mark.parametrize(
    ("status", "good", "sick", "if_replayable", "if_not"),
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
def test_what_a_status_says_of_the_worker_and_of_the_request(status, good, sick, if_replayable, if_not):
    judgement = judge(status)
    assert (judgement.good, judgement.sick) == (good, sick)
    assert RequestState("GET /", None).asks_another(judgement) == if_replayable
    assert RequestState("POST /", "no").asks_another(judgement) == if_not
    assert not RequestState("POST /", "no", one_shot=True).asks_another(judgement)


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("", FULL_FOR), ("3", 3.0), ("0", 0.0), ("99999", MAX_FULL_FOR), ("Mon, 30 Nov 2026", FULL_FOR), ("-1", FULL_FOR)],
)
def test_a_worker_says_how_long_it_is_full(retry_after, seconds):
    assert judge(429, retry_after).full_for == seconds


# Breakers.


def failing(breaker: Breaker, times: int, now: float) -> bool:
    return [breaker.failed(now) for _ in range(times)][-1]


def test_a_breaker_finds_too_many_failures_among_the_last_answers_only():
    breaker = Breaker(random.Random(0))
    assert not failing(breaker, FAILURES - 1, 0.0)
    assert breaker.failed(9.0)
    breaker = Breaker(random.Random(0))
    assert not failing(breaker, FAILURES - 1, 0.0)
    assert not breaker.failed(11.0)
    # Six of ten, however long that takes.
    assert breaker.failed(22.0)
    # One in five is no breakdown.
    breaker = Breaker(random.Random(0))
    for second in range(1000):
        breaker.succeeded(second / 10, second / 10)
        assert second % 5 or not breaker.failed(second / 10)


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["succeeds", "fails", "is never heard of"]), max_size=30))
def test_a_breaker_lets_one_try_and_moves_whatever_becomes_of_it(seed, outcomes):
    breaker = Breaker(random.Random(seed))
    now, pause = 0.0, FAILING_FOR
    breaker.open(Why.ANSWERS, now)
    for outcome in outcomes:
        assert breaker.holds(now + pause * 0.99)
        now += pause * (1 + JITTER)
        assert not breaker.holds(now)
        breaker.let_try(now)
        assert breaker.holds(now)
        pause = min(2 * pause, LONGEST)
        match outcome:
            case "succeeds":
                breaker.succeeded(now, now)
                assert breaker.closed
                # It fails again within a minute: for longer this time.
                breaker.open(Why.ANSWERS, now)
            case "fails":
                breaker.open(Why.ANSWERS, now)
    now += pause * (1 + JITTER)
    breaker.let_try(now)
    breaker.succeeded(now, now)
    breaker.open(Why.ANSWERS, now + LONGEST)
    assert not breaker.holds(now + LONGEST + FAILING_FOR * (1 + JITTER))


def test_requests_that_began_before_a_breaker_moved_say_nothing():
    standings = standings_of(*(worker(f"w{i}") for i in range(4)))
    one = worker("w0")
    breaker = standings.of(one).breaker
    standings.failed(one, 0.0, 1.0)
    standings.failed(one, 0.5, 1.1)
    standings.answered(one, GOOD, 0.5, 1.1)
    assert not breaker.closed
    assert not breaker.holds(1.0 + UNREACHABLE_FOR * (1 + JITTER))
    standings.answered(one, GOOD, 2.5, 2.6)
    assert breaker.closed
    standings.failed(one, 2.5, 2.7)
    assert breaker.closed


def test_any_answer_shows_that_a_worker_does_not_hang_after_all():
    standings = standings_of(worker("w0"), worker("w1"))
    standings.overtaken(worker("w0"), 0.0, 1.0)
    assert standings.of(worker("w0")).breaker.holds(1.2)
    standings.answered(worker("w0"), GOOD, 0.0, 1.2)
    assert standings.of(worker("w0")).breaker.closed


# Workers whose answers are failures.


@pytest.mark.parametrize("key", [None, "k"])
def test_a_worker_that_fails_is_out_after_five_answers_and_has_its_share_again_when_it_is_well(key):
    workers = [worker(f"w{i}") for i in range(3)]
    standings = standings_of(*workers)
    sick = standings.pick("k", (), 0.0)
    asked, now = 0, 0.0
    while now < 100:
        one = standings.pick(key, (), now)
        asked += one == sick
        standings.answered(one, FAILED if one == sick else GOOD, now, now)
        now += 0.01
    # Five, and one try after 5, 10, 20 and 40 s.
    assert asked <= FAILURES + 4
    well_at = now
    while standings.of(sick).breaker.holds(now):
        now += 1.0
    assert now - well_at <= LONGEST * (1 + JITTER)
    while standings.pick(key, (), now) != sick:
        pass
    standings.answered(sick, GOOD, now, now)
    assert picks(standings, now)[sick.name] > 150
    assert standings.pick("k", (), now) == sick


def test_what_its_sidecar_finds_well_again_is_tried_at_once():
    one = worker("w0")
    standings = standings_of(one, worker("w1"))
    standings.failed(one, 0.0, 0.0)
    standings.adopt(topology_of(worker("w0", readiness="critical"), worker("w1")), 0.1)
    assert standings.of(one).breaker.holds(0.2)
    standings.adopt(topology_of(one, worker("w1")), 0.3)
    assert not standings.of(one).breaker.holds(0.3)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 499, 501])
def test_a_storm_of_the_callers_own_errors_puts_nobody_behind(status):
    standings = standings_of(worker("w0"), worker("w1"), worker("w2"))
    for step in range(1000):
        one = standings.pick(None, (), step / 100)
        standings.answered(one, judge(status), step / 100, step / 100)
    assert min(picks(standings, 10.0).values()) > 150


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_answers_alone_put_no_more_than_half_behind(size, seed):
    workers, rng = [worker(f"w{i}") for i in range(size)], random.Random(seed)
    standings = standings_of(*workers)
    told = [standings.answered(rng.choice(workers), FAILED, step / 100, step / 100) for step in range(300)]
    held = [one for one in workers if standings.of(one).breaker.holds(3.0)]
    assert len(held) == size // 2
    assert not all(told)
    left = max(size - 2, 1)
    standings.adopt(topology_of(*workers[:left]), 3.0)
    assert sum(standings.of(one).breaker.holds(3.0) for one in workers[:left]) <= left // 2


def test_a_quick_failure_does_not_look_like_an_idle_worker():
    workers = [worker(f"w{i}") for i in range(2)]
    standings = standings_of(*workers)
    for _ in range(3):
        standings.begin(workers[1])
        standings.answered(workers[0], FAILED, 1.0, 1.0)
    assert picks(standings, 1.0)["w0"] < 400
    standings.answered(workers[0], FAILED, 1.0, 1.0)
    assert picks(standings, 1.0)["w0"] < 200


def test_a_full_worker_is_passed_over_for_as_long_as_it_says_and_then_tried_by_one():
    workers = [worker(f"w{i}") for i in range(3)]
    standings = standings_of(*workers)
    for _ in range(100):
        standings.answered(workers[0], judge(429, "3"), 0.0, 0.0)
    assert standings.of(workers[0]).breaker.closed
    assert picks(standings, 2.9)["w0"] == 0
    assert picks(standings, 3.0)["w0"] == 1
    # What it had taken before says nothing of what it takes now.
    standings.answered(workers[0], GOOD, 1.0, 3.1)
    assert picks(standings, 3.1)["w0"] == 0
    standings.answered(workers[0], GOOD, 3.0, 3.2)
    assert picks(standings, 3.2)["w0"] > 150


# Budgets.


def test_a_budget_is_refilled_by_its_share_and_by_time_and_saves_up_no_more_than_its_burst():
    budget = Budget(0.0, share=0.02, per_second=1.0, burst=100.0, at_first=10.0)
    assert sum(budget.spend(0.0) for _ in range(1000)) == 10
    for _ in range(500):
        budget.earn(5.0)
    assert sum(budget.spend(5.0) for _ in range(1000)) == pytest.approx(15, abs=1)
    assert sum(budget.spend(1e6) for _ in range(1000)) == 100
    budget.give_back(3)
    assert sum(budget.spend(1e6) for _ in range(1000)) == 3


def test_late_hedges_are_two_in_a_hundred_requests():
    budgets = Budgets(0.0)
    hedged = 0
    for request in range(10_000):
        budgets.asked(request / 100)
        hedged += budgets.late.spend(request / 100)
    assert hedged <= 201


def test_retries_that_help_cost_nothing_and_in_a_total_outage_they_end():
    budgets = Budgets(0.0)
    for request in range(10_000):
        assert budgets.retries.spend(request / 100)
        budgets.answered_well(request / 100, 1)
    assert sum(budgets.retries.spend(100 + request / 200) for request in range(2_000)) <= 131
