"""When a draining worker has finished: by its engine's count, by what callers report, or by the time set."""

from __future__ import annotations

from rumormill.discovery.activity import CallerReport, WorkerRequests
from rumormill.sidecar.client_reports import MAX_CALLERS, REPORT_LIFE, ClientReports
from rumormill.sidecar.drain import SETTLE_SECONDS, DrainWatch
from rumormill.sidecar.utilization import UtilizationMeter
from rumormill.sidecar.worker_load import WorkerLoad

ME = b"worker-1"


def reading(running: int, waiting: int = 0, *, at: float, cache: float | None = None, capacity: int | None = None):
    return WorkerLoad(running, waiting, cache, None, capacity, at)


def report(caller: str, under_way: int, finished: int = 0) -> CallerReport:
    return CallerReport(caller, {ME: WorkerRequests(under_way, finished)})


def begun() -> DrainWatch:
    watch = DrainWatch()
    watch.begin(10.0)
    return watch


def test_an_engine_that_counts_ends_the_drain_with_its_last_request_whatever_the_time_set() -> None:
    watch = begun()
    busy = watch.state(20.0, engine=reading(2, 1, at=20.0), clients=0, drain_time=1.0)
    assert (busy.drained, busy.under_way, busy.source) == (False, 3, "engine")
    assert watch.state(21.0, engine=reading(0, at=21.0), clients=5, drain_time=600.0).drained


def test_a_reading_from_before_callers_heard_of_the_drain_ends_nothing() -> None:
    watch = begun()
    assert not watch.state(10.1, engine=reading(0, at=10.1), clients=None, drain_time=0.0).drained
    late = 10.0 + SETTLE_SECONDS
    assert not watch.state(late, engine=reading(0, at=late - 0.01), clients=None, drain_time=0.0).drained
    assert watch.state(late, engine=reading(0, at=late), clients=None, drain_time=0.0).drained


def test_callers_reports_prolong_the_time_set_and_never_shorten_it() -> None:
    watch = begun()
    assert not watch.state(10.5, engine=None, clients=0, drain_time=1.0).drained
    assert not watch.state(12.0, engine=None, clients=4, drain_time=1.0).drained
    done = watch.state(13.0, engine=None, clients=None, drain_time=1.0)  # the last report was void meanwhile
    assert (done.drained, done.under_way, done.source) == (True, 0, "clients")


def test_where_nobody_counts_the_worker_has_the_time_set() -> None:
    watch = begun()
    early = watch.state(10.4, engine=None, clients=None, drain_time=1.0)
    assert (early.drained, early.under_way, early.source, round(early.time_left, 3)) == (False, None, "time", 0.6)
    assert watch.state(11.0, engine=None, clients=None, drain_time=1.0).drained
    watch.end()
    assert not watch.state(12.0, engine=None, clients=None, drain_time=1.0).draining


def test_reports_are_each_callers_whole_state_and_void_when_not_renewed() -> None:
    reports = ClientReports()
    assert reports.under_way(ME, 0.0) is None
    reports.take(report("a", 3), 0.0)
    reports.take(report("b", 2), 1.0)
    assert reports.under_way(ME, 1.0) == 5
    reports.take(report("a", 1), 2.0)
    assert reports.under_way(ME, 2.0) == 3
    assert reports.under_way(ME, 1.0 + REPORT_LIFE) == 1
    assert reports.under_way(ME, 2.0 + REPORT_LIFE) is None


def test_finished_requests_only_grow_also_when_a_caller_starts_anew() -> None:
    reports = ClientReports()
    for finished in (5, 9, 2, 4):
        reports.take(report("a", 1, finished), 0.0)
    assert reports.finished(ME) == 4 + 2


def test_callers_that_nobody_knows_cannot_fill_the_memory() -> None:
    reports = ClientReports()
    for number in range(MAX_CALLERS + 10):
        reports.take(report(f"{number}", 1), 0.0)
    assert reports.under_way(ME, 0.0) == MAX_CALLERS
    reports.take(report("late", 1), REPORT_LIFE)
    assert reports.under_way(ME, REPORT_LIFE) == 1


def test_utilization_is_the_fuller_of_slots_and_cache_and_is_smoothed() -> None:
    meter = UtilizationMeter()
    assert meter.measure(reading(4, at=0.0, capacity=8, cache=0.3)) == (0.5, 0)
    assert meter.measure(None) == (None, 0)
    assert meter.measure(reading(1, 2, at=1.0, capacity=8, cache=0.9)) == (0.9, 2)
    after, _ = meter.measure(reading(0, at=1.2, capacity=8, cache=0.0))
    assert after is not None
    assert 0.7 < after < 0.9
    settled, _ = meter.measure(reading(0, at=60.0, capacity=8, cache=0.0))
    assert settled is not None
    assert settled < 0.01


def test_a_capacity_that_nobody_states_is_learned_from_the_first_queue() -> None:
    meter = UtilizationMeter()
    assert meter.measure(reading(3, at=0.0)) == (None, 0)
    full, queue = meter.measure(reading(6, 2, at=1.0))
    assert (full, queue) == (1.0, 2)
