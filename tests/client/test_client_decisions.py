"""The client's decisions, without a network: selection, failures, hedging, replay."""

from __future__ import annotations

import random
from collections import Counter

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumormill.client.discovery.topology import nothing_known, with_answer
from rumormill.client.errors import no_workers, not_replayable
from rumormill.client.rules.bodies import BUFFER_LIMIT
from rumormill.client.rules.hedging import (
    MAX_KINDS,
    MIN_ANSWERS,
    MIN_HEDGE_DELAY,
    WINDOW,
    LatencyWindow,
    LatencyWindows,
    request_kind,
)
from rumormill.client.rules.messages import AnswerHead
from rumormill.client.rules.replay import checked_replay, why_not_replayable
from rumormill.client.rules.response_class import classify_response
from rumormill.client.rules.retries import MAX_RUNNING, Failure, RequestState, RetryDecision, failure_of
from rumormill.client.runtime.descriptors import TooManyOpenFilesError
from rumormill.client.selection.breaker import JITTER, UNREACHABLE_FOR, UNRESPONSIVE_FOR
from rumormill.client.selection.worker_selector import WorkerSelector
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


def selector_of(*workers: Worker, seed: int = 0) -> WorkerSelector:
    selector = WorkerSelector("embed", random.Random(seed))
    selector.update(topology_of(*workers), 0.0)
    return selector


def everyone(selector: WorkerSelector, key: str | None = "k", now: float = 0.0) -> list[str]:
    """All workers in the order in which they would be tried."""
    tried: set[str] = set()
    order = []
    while (one := selector.pick(key, tried, now)) is not None:
        tried.add(one.url)
        order.append(one.name)
    return order


# Selection.


def test_a_keyed_request_follows_the_ring():
    workers = [worker(f"w{i}") for i in range(9)]
    selector = selector_of(*workers)
    for key in ("a", b"a", "b"):
        assert everyone(selector, key) == [w.name for w in Routing("embed", workers).owners(key)]


def test_failed_suspect_unready_and_evicted_workers_come_in_that_order_behind_the_others():
    names = "abcdefgh"
    ready = {name: worker(name) for name in names}
    order = [w.name for w in Routing("embed", ready.values()).owners("k")]
    failed, suspect, both = order[0], order[1], order[2]
    ready[suspect] = worker(suspect, liveness="suspect")
    ready[both] = worker(both, liveness="suspect")
    unready = [worker(name, readiness=name) for name in ("critical", "starting", "draining")]
    before = topology_of(worker("evicted"), worker("evicted idle", weight=0.0), *ready.values())
    selector = WorkerSelector("embed", random.Random(0))
    selector.update(topology_of(*ready.values(), *unready, worker("idle", weight=0.0), before=before), 0.0)
    selector.record_unreachable(ready[failed], 0.0, 0.0)
    selector.record_unreachable(ready[both], 0.0, 0.0)
    last = ["draining", "starting", "critical", "evicted"]
    assert everyone(selector) == [*order[3:], failed, suspect, both, *last]
    assert set(everyone(selector, None)[:5]) == set(order[3:])
    assert everyone(selector, None)[5:] == [failed, suspect, both, *last]
    assert everyone(selector, now=UNREACHABLE_FOR * (1 + JITTER)) == [order[0], *order[3:], suspect, both, *last]
    routable = {w.url for w in ready.values()}
    assert selector.pick("k", routable, 0.0, last_resort=False) is None


def test_when_all_are_busy_the_least_loaded_for_its_weight_is_asked():
    busy = [worker(name, readiness="critical", weight=weight) for name, weight in (("a", 1.0), ("b", 2.0), ("c", 1.0))]
    selector = selector_of(*busy)
    for _ in range(40):
        selector.begin_request(selector.pick("k", (), 0.0))
    assert [selector.stats(one).in_flight for one in busy] == [10, 20, 10]
    selector.end_request(busy[2])
    assert everyone(selector) == ["c", "b", "a"]


def test_a_worker_that_two_members_name_is_tried_once_and_its_load_counted_once():
    one, twin, other = worker("a", url="http://x"), worker("b", url="http://x"), worker("c")
    selector = selector_of(one, twin, other)
    assert len(everyone(selector)) == len(everyone(selector, None)) == 2
    selector.begin_request(one)
    selector.begin_request(twin)
    assert selector.stats(one) is selector.stats(twin)
    assert selector.stats(one).in_flight == 2
    # Drawn beside the other worker, either of the two names is the busier one.
    picks = Counter(selector.pick(None, (), 0.0).url for _ in range(400))
    assert picks["http://x"] < 400 * 0.6
    evicted = topology_of(other, before=selector.topology, now=1.0)
    assert [gone.url for _, gone in evicted.departed] == ["http://x"] * 2
    assert topology_of(twin, other, before=selector.topology, now=1.0).departed == ()


def test_unkeyed_requests_follow_weights_and_avoid_the_busy():
    selector = selector_of(worker("light"), worker("heavy", weight=3.0))
    picks = Counter(selector.pick(None, (), 0.0).name for _ in range(4000))
    assert picks["heavy"] / picks["light"] == pytest.approx(3.0, rel=0.15), "at rest, weights decide alone"
    selector = selector_of(*(worker(f"w{i}") for i in range(10)))
    for _ in range(1000):
        selector.begin_request(selector.pick(None, (), 0.0))
    loads = [selector.stats(w).in_flight for w in selector.topology.workers]
    assert max(loads) - min(loads) <= 10


def test_a_hedge_overtaking_a_worker_counts_against_it_only_if_it_is_silent():
    one, other = worker("a"), worker("b")
    selector = selector_of(one, other)
    selector.record_answer(one, classify_response(200), 4.0, 5.0)
    selector.record_no_answer(one, 4.0, 6.0)
    assert selector.stats(one).breaker.is_closed
    selector.record_no_answer(one, 5.5, 6.0)
    assert selector.stats(one).breaker.is_open(6.0 + UNRESPONSIVE_FOR / 2)
    selector.record_answer(one, classify_response(200), 6.05, 6.1)
    assert selector.stats(one).breaker.is_closed


def test_the_stats_of_a_worker_are_dropped_with_it_but_not_while_requests_are_in_flight():
    selector = selector_of(worker("a"), worker("b"))
    selector.record_unreachable(worker("a"), 0.0, 0.0)
    selector.begin_request(worker("b"))
    selector.update(nothing_known("embed"), 0.0)
    selector.update(nothing_known("embed"), 0.0)
    assert list(selector._by_url) == [worker("b").url]
    assert selector.pick(None, (), 0.0) is None


# Failures.


class SimulatedRequest:
    """One request without a network. The outcome of each attempt is random."""

    def __init__(self, workers: list[Worker], not_replayable_reason: str | None, rng: random.Random) -> None:
        self.selector = selector_of(*workers)
        self.state = RequestState("POST /x", not_replayable_reason)
        self.rng = rng
        self.outcome: str | None = None

    def run(self) -> None:
        self.start()
        while self.outcome is None:
            running = [attempt for attempt in self.state.attempts if attempt.running]
            if self.state.may_hedge and self.rng.random() < 0.3:
                self.hedge()
                continue
            attempt = self.rng.choice(running)
            match self.rng.choice(["answer", "refused", "died", "limit"]):
                case "answer":
                    overtaken = self.state.finish(attempt)
                    assert len(overtaken) == len(running) - 1
                    self.outcome = "answer"
                case fate:
                    self.fail(attempt, Failure(fate, sent=fate != "refused", caller_timeout=fate == "limit"))

    def start(self) -> None:
        one = self.selector.pick("k", self.state.tried, 0.0)
        if one is not None:
            self.state.begin_attempt(one, 0.0)
        elif not self.state.running:
            self.outcome = "nobody"

    def hedge(self) -> None:
        one = self.selector.pick("k", self.state.tried, 0.0, last_resort=False)
        if one is None:
            self.state.hedging_exhausted = True
        else:
            self.state.begin_attempt(one, 0.0)

    def fail(self, attempt, failure: Failure) -> None:
        match self.state.record_failure(attempt, failure):
            case RetryDecision.TRY_NEXT:
                self.start()
            case RetryDecision.NOT_REPLAYABLE:
                self.outcome = "not replayable"
            case RetryDecision.RAISE:
                self.outcome = "timed out"
            case RetryDecision.AWAIT_RUNNING:
                assert self.state.running


@given(st.integers(0, 6), st.booleans(), st.randoms(use_true_random=False))
def test_every_request_ends_and_what_must_not_be_replayed_is_sent_once_at_most(size, replayable, rng):
    request = SimulatedRequest([worker(f"w{i}") for i in range(size)], None if replayable else "no", rng)
    request.run()
    attempts = request.state.attempts
    assert len({attempt.worker.instance for attempt in attempts}) == len(attempts) <= size
    assert sum(attempt.hedge for attempt in attempts) == 0 or replayable
    sent = [attempt for attempt in attempts if attempt.failure is None or attempt.failure.sent]
    if not replayable:
        assert len(sent) <= 1
        assert sent == attempts[len(attempts) - len(sent) :]
    if request.outcome == "nobody":
        assert len(attempts) == size
        assert all(attempt.failure and not attempt.running for attempt in attempts)
    if request.outcome == "not replayable":
        assert not replayable


def test_at_most_three_attempts_run_at_once():
    state = RequestState("GET /", None)
    for index in range(MAX_RUNNING):
        assert state.may_hedge == (index > 0)
        state.begin_attempt(worker(f"w{index}"), 0.0)
    assert not state.may_hedge


REQUEST = httpx2.Request("GET", "http://embed/")


@pytest.mark.parametrize(
    ("error", "sent", "expected"),
    [
        (httpx2.ConnectError("refused"), False, (False, False)),
        (httpx2.ConnectTimeout("slow"), False, (False, False)),
        (httpx2.UnsupportedProtocol("what?"), False, (False, False)),
        (httpx2.WriteError("reset"), False, (False, False)),
        (httpx2.WriteError("reset"), True, (True, False)),
        (httpx2.ReadError("reset"), True, (True, False)),
        (httpx2.RemoteProtocolError("disconnected"), True, (True, False)),
        (httpx2.ReadTimeout("slow"), True, (True, True)),
        (httpx2.WriteTimeout("slow"), True, (True, True)),
        (httpx2.LocalProtocolError("bad header"), False, (False, False)),
        (KeyError("the caller's"), True, None),
    ],
)
def test_how_errors_of_the_transport_are_classified(error, sent, expected):
    failure = failure_of(error, sent=sent)
    assert (None if failure is None else (failure.sent, failure.caller_timeout)) == expected


def test_a_failure_still_answers_to_the_old_names_of_its_fields():
    assert Failure("slow", sent=True, caller_timeout=True).by_limit
    assert Failure("malformed", sent=False, local_error=True).refused_here
    assert not Failure("reset", sent=True).by_limit
    assert not Failure("reset", sent=True).refused_here


def test_a_request_that_two_connections_refuse_to_send_is_the_callers_mistake():
    state = RequestState("GET /", None)
    refusal = failure_of(httpx2.LocalProtocolError("bad header"), sent=False)
    assert state.record_failure(state.begin_attempt(worker("w1"), 0.0), refusal) is RetryDecision.TRY_NEXT
    assert state.record_failure(state.begin_attempt(worker("w2"), 0.0), refusal) is RetryDecision.RAISE
    half_sent = failure_of(httpx2.LocalProtocolError("too little data"), sent=True)
    state = RequestState("GET /", None)
    assert state.record_failure(state.begin_attempt(worker("w1"), 0.0), half_sent) is RetryDecision.RAISE


def test_a_running_attempt_goes_on_if_no_descriptor_is_left_for_a_hedge():
    def refused(state: RequestState) -> RetryDecision:
        attempt = state.begin_attempt(worker(f"w{len(state.attempts)}"), 1.0)
        return state.record_failure(attempt, failure_of(TooManyOpenFilesError("too many open files"), sent=False))

    alone, beside_another = RequestState("GET /", None), RequestState("GET /", None)
    beside_another.begin_attempt(worker("w0"), 0.0)
    assert [refused(alone) for _ in range(2)] == [RetryDecision.TRY_NEXT, RetryDecision.RAISE]
    assert [refused(beside_another) for _ in range(2)] == [RetryDecision.TRY_NEXT, RetryDecision.AWAIT_RUNNING]


def test_errors_name_the_attempts_and_the_known_workers():
    topology = topology_of(worker("w1"), worker("w2"))
    state = RequestState("POST /x", "it is forbidden")
    refused = state.begin_attempt(worker("w1"), 1.0)
    state.record_failure(refused, Failure("refused", sent=False))
    died = state.begin_attempt(worker("w2"), 1.0)
    cause = httpx2.ReadError("reset")
    failure = Failure("reset", sent=True, cause=cause)
    assert state.record_failure(died, failure) is RetryDecision.NOT_REPLAYABLE
    error = not_replayable(state, died, failure, topology, 1.25)
    assert str(error).startswith("POST /x was sent to w2 (http://w2) 0.250 s ago, which then failed: reset.")
    assert str(error).endswith("so it was not sent to another: it is forbidden")
    assert error.__cause__ is cause
    text = str(no_workers(state, topology, 1.0))
    assert "w1: refused (before it was sent); w2: reset (after it was sent)" in text
    assert "known workers of service 'embed': 2" in text


# Replay.


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
    why = why_not_replayable(checked_replay(mode), method, httpx2.Headers(headers), one_shot=one_shot)
    assert why is None if reason is None else reason in why


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"Content-Length": "10"}, BUFFER_LIMIT),
        ({"Content-Type": "application/json", "Content-Length": "10"}, BUFFER_LIMIT),
        ({"Content-Length": str(BUFFER_LIMIT + 1)}, None),
        ({"Content-Type": "text/event-stream", "Content-Length": "10"}, None),
        ({"Content-Type": "text/event-stream; charset=utf-8"}, None),
        ({"Content-Type": "application/json; charset=utf-8"}, 0),
        ({"Content-Type": "application/problem+json"}, 0),
        ({"Content-Type": "application/x-ndjson"}, None),
        ({"Content-Type": "text/plain"}, None),
        ({}, None),
    ],
)
def test_answers_are_buffered_if_their_length_is_known_and_json_until_its_first_byte(headers, kept):
    assert AnswerHead(httpx2.Headers(headers).raw).buffer_limit == kept


# Hedging.


@given(st.lists(st.floats(0, 100), min_size=1, max_size=WINDOW + 50))
def test_the_delay_follows_the_95th_percentile_of_the_last_answers_once_enough_are_known(durations):
    window = LatencyWindow()
    for seconds in durations:
        window.record(seconds)
    recent = sorted(durations[-WINDOW:])
    assert window.p95 == recent[min(int(len(recent) * 0.95), len(recent) - 1)]
    assert window.hedge_delay == (max(1.25 * window.p95, MIN_HEDGE_DELAY) if len(recent) >= MIN_ANSWERS else None)


def test_a_few_slow_answers_do_not_slow_the_hedges():
    window = LatencyWindow()
    assert (window.p95, window.hedge_delay) == (None, None)
    for _ in range(200):
        window.record(0.005)
    for _ in range(9):
        window.record(0.5)
    assert window.hedge_delay == MIN_HEDGE_DELAY


def test_long_and_short_requests_are_different_kinds():
    short, long = request_kind("POST", "/v1/embeddings", "300"), request_kind("POST", "/v1/embeddings", "3000000")
    kinds = {short, long, request_kind("GET", "/v1/embeddings", None), request_kind("POST", "/v1/chat", "300")}
    assert len(kinds) == 4
    assert request_kind("POST", "/v1/embeddings", "310") == short
    assert request_kind("POST", "/v1/embeddings", "no number") == request_kind("POST", "/v1/embeddings", None)
    windows = LatencyWindows()
    for _ in range(MIN_ANSWERS):
        windows.window(short).record(0.005)
        windows.window(long).record(6.0)
    assert windows.window(short).hedge_delay == MIN_HEDGE_DELAY
    assert windows.window(long).hedge_delay == 7.5


def test_kinds_are_bounded_and_the_one_in_use_is_kept():
    windows = LatencyWindows()
    kept = windows.window(request_kind("POST", "/v1/embeddings", "300"))
    for number in range(3 * MAX_KINDS):
        windows.window(request_kind("GET", f"/item/{number}", None))
        assert windows.window(request_kind("POST", "/v1/embeddings", "300")) is kept
    assert len(windows._windows) == MAX_KINDS
