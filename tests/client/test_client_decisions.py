"""What the client decides, without a network: whom to ask, what failures mean, when to hedge, what may be replayed."""

from __future__ import annotations

import random
from collections import Counter

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.client.answers import judge
from rumormill.client.bodies import LIMIT, kept_of_response
from rumormill.client.breaker import JITTER, SILENT_FOR, UNREACHABLE_FOR
from rumormill.client.descriptors import TooManyOpenFilesError
from rumormill.client.errors import no_workers, not_replayable
from rumormill.client.hedging import (
    ENOUGH,
    FLOOR,
    MAX_KINDS,
    WINDOW,
    LatencyWindow,
    LatencyWindows,
    kind_of,
)
from rumormill.client.replay import checked_replay, why_not_replayable
from rumormill.client.retries import MAX_RUNNING, Failure, RequestState, RetryDecision, failure_of
from rumormill.client.topology import nothing_known, with_answer
from rumormill.client.worker_selector import WorkerSelector
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring import Routing, RoutingPolicy, Worker


def worker(name: str, **changes: object) -> Worker:
    plain = Worker(
        name, 1, name.ljust(32, "0"), "embed", f"http://{name}", "", "", 1.0, "alive", "passing", None, {}, ""
    )
    return msgspec.structs.replace(plain, **changes)


def topology_of(*workers: Worker, before=None, now: float = 0.0):
    answer = WorkersAnswer(
        "prod", "embed", 1, "p", Routing("embed", workers).digest, False, RoutingPolicy(), list(workers)
    )
    return with_answer(before or nothing_known("embed"), answer, source="s", origin="sidecar", now=now)


def standings_of(*workers: Worker, seed: int = 0) -> WorkerSelector:
    standings = WorkerSelector("embed", random.Random(seed))
    standings.adopt(topology_of(*workers), 0.0)
    return standings


def everyone(standings: WorkerSelector, key: str | None = "k", now: float = 0.0) -> list[str]:
    """All workers in the order in which they would be tried."""
    tried: set[str] = set()
    order = []
    while (one := standings.pick(key, tried, now)) is not None:
        tried.add(one.url)
        order.append(one.name)
    return order


# Whom to ask.


def test_a_keyed_request_follows_the_ring():
    workers = [worker(f"w{i}") for i in range(9)]
    standings = standings_of(*workers)
    for key in ("a", b"a", "b"):
        assert everyone(standings, key) == [w.name for w in Routing("embed", workers).owners(key)]


def test_failed_suspect_unready_and_evicted_workers_come_in_that_order_behind_the_others():
    names = "abcdefgh"
    ready = {name: worker(name) for name in names}
    order = [w.name for w in Routing("embed", ready.values()).owners("k")]
    failed, suspect, both = order[0], order[1], order[2]
    ready[suspect] = worker(suspect, liveness="suspect")
    ready[both] = worker(both, liveness="suspect")
    unready = [worker(name, readiness=name) for name in ("critical", "starting", "draining")]
    before = topology_of(worker("evicted"), worker("evicted idle", weight=0.0), *ready.values())
    standings = WorkerSelector("embed", random.Random(0))
    standings.adopt(topology_of(*ready.values(), *unready, worker("idle", weight=0.0), before=before), 0.0)
    standings.failed(ready[failed], 0.0, 0.0)
    standings.failed(ready[both], 0.0, 0.0)
    last = ["draining", "starting", "critical", "evicted"]
    assert everyone(standings) == [*order[3:], failed, suspect, both, *last]
    assert set(everyone(standings, None)[:5]) == set(order[3:])
    assert everyone(standings, None)[5:] == [failed, suspect, both, *last]
    assert everyone(standings, now=UNREACHABLE_FOR * (1 + JITTER)) == [order[0], *order[3:], suspect, both, *last]
    routable = {w.url for w in ready.values()}
    assert standings.pick("k", routable, 0.0, last_resort=False) is None


def test_when_all_are_busy_the_least_loaded_for_its_weight_is_asked():
    busy = [worker(name, readiness="critical", weight=weight) for name, weight in (("a", 1.0), ("b", 2.0), ("c", 1.0))]
    standings = standings_of(*busy)
    for _ in range(40):
        standings.begin(standings.pick("k", (), 0.0))
    assert [standings.of(one).in_flight for one in busy] == [10, 20, 10]
    standings.end(busy[2])
    assert everyone(standings) == ["c", "b", "a"]


def test_a_worker_that_two_members_name_is_tried_once_and_its_load_counted_once():
    one, twin, other = worker("a", url="http://x"), worker("b", url="http://x"), worker("c")
    standings = standings_of(one, twin, other)
    assert len(everyone(standings)) == len(everyone(standings, None)) == 2
    standings.begin(one)
    standings.begin(twin)
    assert standings.of(one) is standings.of(twin)
    assert standings.of(one).in_flight == 2
    # Whoever of the two is drawn beside the other worker is the busier one.
    picks = Counter(standings.pick(None, (), 0.0).url for _ in range(400))
    assert picks["http://x"] < 400 * 0.6
    evicted = topology_of(other, before=standings.topology, now=1.0)
    assert [gone.url for _, gone in evicted.departed] == ["http://x"] * 2
    assert topology_of(twin, other, before=standings.topology, now=1.0).departed == ()


def test_unkeyed_requests_follow_weights_and_avoid_the_busy():
    standings = standings_of(worker("light"), worker("heavy", weight=3.0))
    picks = Counter(standings.pick(None, (), 0.0).name for _ in range(4000))
    # Of two drawn by weight the less loaded for its weight wins: heavier is preferred, the lighter is not starved.
    assert picks["heavy"] > 3 * picks["light"] > 100
    standings = standings_of(*(worker(f"w{i}") for i in range(10)))
    for _ in range(1000):
        standings.begin(standings.pick(None, (), 0.0))
    loads = [standings.of(w).in_flight for w in standings.topology.workers]
    assert max(loads) - min(loads) <= 10


def test_a_hedge_overtaking_a_worker_counts_against_it_only_if_it_is_silent():
    one, other = worker("a"), worker("b")
    standings = standings_of(one, other)
    standings.answered(one, judge(200), 4.0, 5.0)
    standings.overtaken(one, 4.0, 6.0)
    assert standings.of(one).breaker.closed
    standings.overtaken(one, 5.5, 6.0)
    assert standings.of(one).breaker.holds(6.0 + SILENT_FOR / 2)
    standings.answered(one, judge(200), 6.05, 6.1)
    assert standings.of(one).breaker.closed


def test_what_was_seen_of_a_worker_is_forgotten_with_it_but_not_while_it_works():
    standings = standings_of(worker("a"), worker("b"))
    standings.failed(worker("a"), 0.0, 0.0)
    standings.begin(worker("b"))
    standings.adopt(nothing_known("embed"), 0.0)
    standings.adopt(nothing_known("embed"), 0.0)
    assert list(standings._by_url) == [worker("b").url]
    assert standings.pick(None, (), 0.0) is None


# What a failure means.


class Play:
    """A request played through without a network: each worker's fate is drawn."""

    def __init__(self, workers: list[Worker], unreplayable: str | None, rng: random.Random) -> None:
        self.standings = standings_of(*workers)
        self.course = RequestState("POST /x", unreplayable)
        self.rng = rng
        self.outcome: str | None = None

    def run(self) -> None:
        self.start()
        while self.outcome is None:
            running = [attempt for attempt in self.course.attempts if attempt.running]
            if self.course.may_hedge and self.rng.random() < 0.3:
                self.hedge()
                continue
            attempt = self.rng.choice(running)
            match self.rng.choice(["answer", "refused", "died", "limit"]):
                case "answer":
                    losers = self.course.settle(attempt)
                    assert len(losers) == len(running) - 1
                    self.outcome = "answer"
                case fate:
                    self.fail(attempt, Failure(fate, sent=fate != "refused", by_limit=fate == "limit"))

    def start(self) -> None:
        one = self.standings.pick("k", self.course.tried, 0.0)
        if one is not None:
            self.course.begin(one, 0.0)
        elif not self.course.running:
            self.outcome = "nobody"

    def hedge(self) -> None:
        one = self.standings.pick("k", self.course.tried, 0.0, last_resort=False)
        if one is None:
            self.course.no_more_hedges = True
        else:
            self.course.begin(one, 0.0)

    def fail(self, attempt, failure: Failure) -> None:
        match self.course.fail(attempt, failure):
            case RetryDecision.NEXT:
                self.start()
            case RetryDecision.NOT_REPLAYABLE:
                self.outcome = "not replayable"
            case RetryDecision.AS_IT_IS:
                self.outcome = "timed out"
            case RetryDecision.WAIT:
                assert self.course.running


@given(st.integers(0, 6), st.booleans(), st.randoms(use_true_random=False))
def test_every_request_ends_and_what_must_not_be_replayed_is_sent_once_at_most(size, replayable, rng):
    play = Play([worker(f"w{i}") for i in range(size)], None if replayable else "no", rng)
    play.run()
    attempts = play.course.attempts
    assert len({attempt.worker.instance for attempt in attempts}) == len(attempts) <= size
    assert sum(attempt.hedge for attempt in attempts) == 0 or replayable
    sent = [attempt for attempt in attempts if attempt.failure is None or attempt.failure.sent]
    if not replayable:
        assert len(sent) <= 1
        assert sent == attempts[len(attempts) - len(sent) :]
    if play.outcome == "nobody":
        assert len(attempts) == size
        assert all(attempt.failure and not attempt.running for attempt in attempts)
    if play.outcome == "not replayable":
        assert not replayable


def test_at_most_three_attempts_run_at_once():
    course = RequestState("GET /", None)
    for index in range(MAX_RUNNING):
        assert course.may_hedge == (index > 0)
        course.begin(worker(f"w{index}"), 0.0)
    assert not course.may_hedge


REQUEST = httpx.Request("GET", "http://embed/")


@pytest.mark.parametrize(
    ("error", "sent", "expected"),
    [
        (httpx.ConnectError("refused"), False, (False, False)),
        (httpx.ConnectTimeout("slow"), False, (False, False)),
        (httpx.UnsupportedProtocol("what?"), False, (False, False)),
        (httpx.WriteError("reset"), False, (False, False)),
        (httpx.WriteError("reset"), True, (True, False)),
        (httpx.ReadError("reset"), True, (True, False)),
        (httpx.RemoteProtocolError("disconnected"), True, (True, False)),
        (httpx.ReadTimeout("slow"), True, (True, True)),
        (httpx.WriteTimeout("slow"), True, (True, True)),
        (httpx.LocalProtocolError("bad header"), False, (False, False)),
        (KeyError("the caller's"), True, None),
    ],
)
def test_what_an_error_of_the_transport_says(error, sent, expected):
    failure = failure_of(error, sent=sent)
    assert (None if failure is None else (failure.sent, failure.by_limit)) == expected


def test_a_request_that_two_connections_refuse_to_send_is_the_callers_mistake():
    course = RequestState("GET /", None)
    refusal = failure_of(httpx.LocalProtocolError("bad header"), sent=False)
    assert course.fail(course.begin(worker("w1"), 0.0), refusal) is RetryDecision.NEXT
    assert course.fail(course.begin(worker("w2"), 0.0), refusal) is RetryDecision.AS_IT_IS
    half_sent = failure_of(httpx.LocalProtocolError("too little data"), sent=True)
    course = RequestState("GET /", None)
    assert course.fail(course.begin(worker("w1"), 0.0), half_sent) is RetryDecision.AS_IT_IS


def test_what_runs_goes_on_when_there_is_no_descriptor_for_a_hedge():
    def refused(course: RequestState) -> RetryDecision:
        attempt = course.begin(worker(f"w{len(course.attempts)}"), 1.0)
        return course.fail(attempt, failure_of(TooManyOpenFilesError("too many open files"), sent=False))

    alone, beside_another = RequestState("GET /", None), RequestState("GET /", None)
    beside_another.begin(worker("w0"), 0.0)
    assert [refused(alone) for _ in range(2)] == [RetryDecision.NEXT, RetryDecision.AS_IT_IS]
    assert [refused(beside_another) for _ in range(2)] == [RetryDecision.NEXT, RetryDecision.WAIT]


def test_errors_tell_what_was_sent_to_whom_and_what_is_known():
    topology = topology_of(worker("w1"), worker("w2"))
    course = RequestState("POST /x", "it is forbidden")
    refused = course.begin(worker("w1"), 1.0)
    course.fail(refused, Failure("refused", sent=False))
    died = course.begin(worker("w2"), 1.0)
    cause = httpx.ReadError("reset")
    failure = Failure("reset", sent=True, cause=cause)
    assert course.fail(died, failure) is RetryDecision.NOT_REPLAYABLE
    error = not_replayable(course, died, failure, topology, 1.25)
    assert str(error).startswith("POST /x was sent to w2 (http://w2) 0.250 s ago, which then failed: reset.")
    assert str(error).endswith("it was not sent to another: it is forbidden")
    assert error.__cause__ is cause
    text = str(no_workers(course, topology, 1.0))
    assert "w1: refused (before it was sent); w2: reset (after it was sent)" in text
    assert "2 of service 'embed' known" in text


# What may be replayed.


@pytest.mark.parametrize(
    ("mode", "method", "headers", "one_shot", "reason"),
    [
        ("idempotent", "GET", {}, False, None),
        ("idempotent", "delete", {}, False, None),
        ("idempotent", "POST", {}, False, "POST is not idempotent"),
        ("idempotent", "PATCH", {"Idempotency-Key": "x"}, False, None),
        ("idempotent", "PUT", {}, True, "can be sent only once"),
        ("always", "POST", {}, False, None),
        ("always", "POST", {}, True, "can be sent only once"),
        ("never", "GET", {"Idempotency-Key": "x"}, False, "forbids"),
    ],
)
def test_the_rules_of_replay(mode, method, headers, one_shot, reason):
    why = why_not_replayable(checked_replay(mode), method, httpx.Headers(headers), one_shot=one_shot)
    assert why is None if reason is None else reason in why


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"Content-Length": "10"}, LIMIT),
        ({"Content-Type": "application/json", "Content-Length": "10"}, LIMIT),
        ({"Content-Length": str(LIMIT + 1)}, None),
        ({"Content-Type": "text/event-stream", "Content-Length": "10"}, None),
        ({"Content-Type": "text/event-stream; charset=utf-8"}, None),
        ({"Content-Type": "application/json; charset=utf-8"}, 0),
        ({"Content-Type": "application/problem+json"}, 0),
        ({"Content-Type": "application/x-ndjson"}, None),
        ({"Content-Type": "text/plain"}, None),
        ({}, None),
    ],
)
def test_answers_are_kept_where_their_length_is_known_and_json_until_its_first_byte(headers, kept):
    assert kept_of_response(httpx.Response(200, headers=headers)) == kept


# When to hedge.


@given(st.lists(st.floats(0, 100), min_size=1, max_size=WINDOW + 50))
def test_the_delay_is_four_times_the_95th_percentile_of_the_last_answers_once_enough_are_known(durations):
    window = LatencyWindow()
    for seconds in durations:
        window.record(seconds)
    recent = sorted(durations[-WINDOW:])
    assert window.p95 == recent[min(int(len(recent) * 0.95), len(recent) - 1)]
    assert window.delay == (max(4 * window.p95, FLOOR) if len(recent) >= ENOUGH else None)


def test_a_few_slow_answers_do_not_slow_the_hedges():
    window = LatencyWindow()
    assert (window.p95, window.delay) == (None, None)
    for _ in range(200):
        window.record(0.005)
    for _ in range(9):
        window.record(0.5)
    assert window.delay == FLOOR


def test_long_and_short_requests_are_different_kinds():
    short, long = kind_of("POST", "/v1/embeddings", "300"), kind_of("POST", "/v1/embeddings", "3000000")
    kinds = {short, long, kind_of("GET", "/v1/embeddings", None), kind_of("POST", "/v1/chat", "300")}
    assert len(kinds) == 4
    assert kind_of("POST", "/v1/embeddings", "310") == short
    assert kind_of("POST", "/v1/embeddings", "no number") == kind_of("POST", "/v1/embeddings", None)
    windows = LatencyWindows()
    for _ in range(ENOUGH):
        windows.of(short).record(0.005)
        windows.of(long).record(6.0)
    assert windows.of(short).delay == FLOOR
    assert windows.of(long).delay == 24.0


def test_kinds_are_bounded_and_the_one_in_use_is_kept():
    windows = LatencyWindows()
    kept = windows.of(kind_of("POST", "/v1/embeddings", "300"))
    for number in range(3 * MAX_KINDS):
        windows.of(kind_of("GET", f"/item/{number}", None))
        assert windows.of(kind_of("POST", "/v1/embeddings", "300")) is kept
    assert len(windows._windows) == MAX_KINDS
