"""Requests without a key: who gets them when workers differ, in a queueing model with a seed and virtual time.

Workers have slots. A request takes an exponential time, and waits while all slots are busy. Requests come as a Poisson
stream whatever happens, so waiting counts.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_client_decisions import topology_of, worker

from rumormill.client.rules.hedging import LatencyWindow
from rumormill.client.rules.response_class import classify_response
from rumormill.client.selection.worker_cost import (
    SLOWER,
    TAU,
    TAU_REQUESTS,
    LatencyEstimate,
    ObservedLoad,
    costs_more,
    is_worse,
)
from rumormill.client.selection.worker_selector import WorkerSelector
from rumormill.ring import Worker

SERVICE_SECONDS = 0.050


@dataclass
class Server:
    """One worker of the model."""

    worker: Worker
    slots: int = 4
    slowness: float = 1.0
    status: int = 200
    busy: int = 0
    queue: list[float] = field(default_factory=list)
    """When the waiting requests began."""


@dataclass
class Model:
    """Requests to servers, in virtual time."""

    servers: dict[str, Server]
    seed: int
    rate: float = 100.0
    keys: int = 0
    """How many keys the requests have; 0 for requests without one."""
    spread: float = 1.0
    """Of the service times: 1 is exponential, more is more uneven."""
    now: float = 0.0
    picked: list[tuple[float, str]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f"seed={self.seed}")
        self._rng = random.Random(self.seed)
        self.selector = WorkerSelector("embed", random.Random(self.seed))
        self.selector.update(topology_of(*(server.worker for server in self.servers.values())), 0.0)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._kind = LatencyWindow()
        self._at(0.0, self._arrive)

    def run(self, seconds: float) -> Model:
        ends = self.now + seconds
        while self._events[0][0] <= ends:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = ends
        return self

    def shares(self, since: float, until: float = math.inf) -> dict[str, float]:
        """Which part of the requests that came then each worker got."""
        counted = Counter(name for at, name in self.picked if since <= at < until)
        return {name: counted[name] / counted.total() for name in self.servers}

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def _arrive(self) -> None:
        self._at(self.now + self._rng.expovariate(self.rate), self._arrive)
        key = f"k{self._rng.randrange(self.keys)}" if self.keys else None
        picked = self.selector.pick(key, (), self.now)
        assert picked is not None
        self.selector.begin_request(picked)
        self.picked.append((self.now, picked.name))
        server = self.servers[picked.name]
        server.queue.append(self.now)
        self._serve(server)

    def _serve(self, server: Server) -> None:
        while server.queue and server.busy < server.slots:
            began = server.queue.pop(0)
            server.busy += 1
            if server.status >= 500:
                taken = 0.002
            elif self.spread > 1:
                sigma = math.log(self.spread)
                taken = self._rng.lognormvariate(-sigma * sigma / 2, sigma) * SERVICE_SECONDS * server.slowness
            else:
                taken = self._rng.expovariate(1.0) * SERVICE_SECONDS * server.slowness
            self._at(self.now + taken, partial(self._answer, server, began))

    def _answer(self, server: Server, began: float) -> None:
        server.busy -= 1
        self.selector.end_request(server.worker)
        answer_class = classify_response(server.status)
        self.selector.record_answer(server.worker, answer_class, began, self.now, self._kind.median)
        self._kind.record(self.now - began)
        self.latencies.append(self.now - began)
        self._serve(server)


def model(seed: int, *weights: float, **settings: float) -> Model:
    workers = [worker(f"w{n}", weight=weight) for n, weight in enumerate(weights)]
    return Model({one.name: Server(one) for one in workers}, seed, **settings)


SEEDS = [1, 2, 3]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [5.0, 100.0, 180.0])
def test_equal_workers_get_equal_shares(rate: float, seed: int) -> None:
    shares = model(seed, 1.0, 1.0, 1.0, rate=rate).run(max(60.0, 4000 / rate)).shares(10.0)
    assert all(share == pytest.approx(1 / 3, abs=0.06) for share in shares.values()), shares


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_hold_when_there_is_little_to_do(seed: int) -> None:
    shares = model(seed, 1.0, 3.0, rate=20.0).run(120.0).shares(10.0)
    assert shares["w1"] == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [20.0, 100.0, 180.0])
@pytest.mark.parametrize(("spread", "most"), [(1.5, 0.01), (1.0, 0.035)])
def test_a_worker_that_becomes_ten_times_slower_gets_hardly_anything(
    spread: float, most: float, rate: float, seed: int
) -> None:
    """One percent where times differ by half. Exponential times hide a slow worker: its answers are often quick."""
    pool = model(seed, 1.0, 1.0, 1.0, 1.0, 1.0, rate=rate, spread=spread).run(10.0)
    pool.servers["w0"].slowness = 10.0
    pool.run(31.0)
    print(pool.shares(11.0))
    assert pool.shares(11.0)["w0"] < most, "its share is 0.2; 1 s after it became slow"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rate", "most"), [(100.0, 0.01), (20.0, 0.035)])
def test_keys_leave_a_worker_that_is_slow_with_all_of_them_and_come_back(rate: float, most: float, seed: int) -> None:
    """It is known after sixteen answers, which takes longer where there are few."""
    pool = model(seed, 1.0, 1.0, 1.0, rate=rate, spread=1.5, keys=500).run(20.0)
    assert pool.shares(5.0)["w0"] == pytest.approx(1 / 3, abs=0.12)
    pool.servers["w0"].slowness = 10.0
    pool.run(31.0)
    print(pool.shares(21.0))
    assert pool.shares(21.0)["w0"] < most
    pool.servers["w0"].slowness = 1.0
    pool.run(40.0)
    assert pool.shares(80.0)["w0"] == pytest.approx(1 / 3, abs=0.12)


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_with_uneven_answers_stay_where_they_are(seed: int) -> None:
    pool = model(seed, 1.0, 1.0, 1.0, rate=60.0, spread=3.0, keys=500).run(120.0)
    owners = {f"k{number}": pool.selector.owners(f"k{number}", 1)[0].name for number in range(500)}
    expected = Counter(owners.values())
    assert all(share == pytest.approx(expected[name] / 500, abs=0.03) for name, share in pool.shares(10.0).items())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_heals_has_its_share_back_within_ten_seconds(seed: int) -> None:
    pool = model(seed, 1.0, 1.0, 1.0).run(10.0)
    pool.servers["w0"].slowness = 10.0
    pool.run(30.0)
    pool.servers["w0"].slowness = 1.0
    pool.run(30.0)
    print(pool.shares(30.0, 40.0), pool.shares(50.0))
    assert pool.shares(30.0, 40.0)["w0"] < 0.05
    assert pool.shares(50.0)["w0"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_fails_quickly_draws_no_traffic(seed: int) -> None:
    pool = model(seed, 1.0, 1.0, 1.0).run(10.0)
    pool.servers["w0"].status = 500
    pool.run(20.0)
    assert pool.shares(10.0)["w0"] < 0.02


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_uneven_requests_do_not_wait_longer_than_by_requests_in_flight_alone(
    spread: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latency of single requests must not scare the client away from healthy workers."""
    with_latency = model(seed, 1.0, 1.0, 1.0, spread=spread, rate=170.0).run(60.0)
    monkeypatch.setattr(LatencyEstimate, "record", lambda *_: None)
    without = model(seed, 1.0, 1.0, 1.0, spread=spread, rate=170.0).run(60.0)
    print(fmean(with_latency.latencies), fmean(without.latencies))
    assert fmean(with_latency.latencies) < 1.25 * fmean(without.latencies)
    tail = [quantiles(one.latencies, n=100)[98] for one in (with_latency, without)]
    assert tail[0] < 1.35 * tail[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_others_keep_busy_gets_less(seed: int) -> None:
    pool = model(seed, 1.0, 1.0, 1.0, rate=60.0)
    busy = {"w0": 0.9, "w1": 0.2, "w2": 0.2}
    workers = [worker(name, utilization=utilization) for name, utilization in busy.items()]
    pool.selector.update(topology_of(*workers), 0.0)
    assert pool.run(30.0).shares(0.0)["w0"] < 0.2


# The rules themselves.


def test_an_estimate_jumps_up_and_comes_down_slowly() -> None:
    estimate = LatencyEstimate()
    assert estimate.at(0.0, 0) is None
    estimate.record(0.1, 0.0, 0)
    estimate.record(1.0, 1.0, 1)
    assert estimate.at(1.0, 1) == 1.0
    estimate.record(0.1, 1.0 + TAU, 2)
    assert estimate.at(1.0 + TAU, 2) == pytest.approx(0.1 + 0.9 / math.e)


def test_without_answers_it_comes_down_until_somebody_asks() -> None:
    estimate = LatencyEstimate()
    estimate.record(1.0, 0.0, 0)
    assert estimate.at(TAU, TAU_REQUESTS) == pytest.approx(1 / math.e)
    estimate.on_request(TAU, TAU_REQUESTS)
    assert estimate.at(TAU, TAU_REQUESTS) == 1.0
    estimate.record(0.1, 4 * TAU, TAU_REQUESTS)
    assert estimate.at(4 * TAU, TAU_REQUESTS) == pytest.approx(0.1, abs=0.05), "one quick answer says enough"


def test_it_comes_down_by_time_or_by_requests_whichever_is_slower() -> None:
    estimate = LatencyEstimate()
    estimate.record(1.0, 0.0, 0)
    assert estimate.at(100 * TAU, 0) == 1.0, "nobody else has asked meanwhile"
    assert estimate.at(0.0, 100 * TAU_REQUESTS) == 1.0, "no time has passed"


def test_a_wait_in_vain_never_lowers_it_and_a_second_one_doubles_it() -> None:
    estimate = LatencyEstimate()
    estimate.record(1.0, 0.0, 0)
    estimate.record_at_least(0.06, TAU, TAU_REQUESTS)
    assert estimate.at(TAU, TAU_REQUESTS) == pytest.approx(0.96), "sixteen waits at the most"
    other = LatencyEstimate()
    other.record_at_least(0.06, 0.0, 0)
    assert other.at(0.0, 0) == 0.06
    other.record_at_least(0.06, TAU, TAU_REQUESTS)
    assert other.at(TAU, TAU_REQUESTS) == 0.12


loads = st.builds(
    ObservedLoad,
    in_flight=st.integers(0, 50),
    failures=st.integers(0, 10),
    weight=st.floats(0.1, 10),
    latency=st.none() | st.floats(0, 100),
    utilization=st.none() | st.floats(0, 2),
)


@given(loads, loads)
def test_no_two_workers_are_each_better_than_the_other(one: ObservedLoad, other: ObservedLoad) -> None:
    assert not (costs_more(one, other) and costs_more(other, one))
    assert not (is_worse(one, other) and is_worse(other, one)) or one.failures != other.failures
    assert not costs_more(one, one)


def test_small_differences_of_latency_do_not_count_and_large_ones_do() -> None:
    quick, alike, slow = (ObservedLoad(0, 0, 1.0, latency, None) for latency in (0.1, 0.1 * SLOWER, 0.4 * SLOWER))
    assert not costs_more(alike, quick)
    assert costs_more(slow, quick)
    busy = ObservedLoad(9, 0, 1.0, 0.1, None)
    assert costs_more(slow, busy), "eight times slower is not better than nine in flight"
    slower = ObservedLoad(0, 0, 1.0, 0.3, None)
    assert costs_more(busy, slower), "three times slower is"
