"""The report's first table: each objective is kept by a good outcome and broken by a bad one."""

from __future__ import annotations

from msgspec.structs import replace
from seeds import MORE_SEEDS

from rumormill.simulations.outcome import Block, Detection, FalseEviction, RunOutcome
from rumormill.simulations.plans import Job, JobOutcome
from rumormill.simulations.slo import Objective, objectives

CELL = "lifeguard C=1 D=512 I=1024"


def outcome(nodes: int, **measured: object) -> RunOutcome:
    quiet = RunOutcome(
        scenario="made up",
        protocol="rumormill",
        nodes=nodes,
        seed=0,
        seconds=60.0,
        detections=(),
        blocks=(),
        false_evictions=(),
        evictions=0,
        suspicions=0,
        joined_after=0.5,
        heals=(),
        one_view_after=0.0,
        traffic=(),
        steady=(17.0, 1400.0),
        trace="",
    )
    return replace(quiet, **measured)


def crash(nodes: int, delay: float, *, survivors: int = 2) -> JobOutcome:
    detection = Detection("n1", 5.0, survivors, (delay, delay))
    return JobOutcome(Job("crash", nodes, 0), outcome(nodes, detections=(detection,)))


def cell(*blocks: Block, false_evictions: tuple[FalseEviction, ...] = ()) -> JobOutcome:
    return JobOutcome(Job(CELL, 128, 0), outcome(128, blocks=blocks, false_evictions=false_evictions))


def verdict(claim: str, *done: JobOutcome) -> bool:
    (objective,) = (p for p in objectives(done) if claim in p.claim)
    return objective.met


@MORE_SEEDS
def test_real_runs_keep_what_they_speak_of() -> None:
    done = [JobOutcome(job, job.run()) for job in (Job("crash", 8, 1), Job("crash", 16, 1), Job("crash", 24, 1))]
    kept: list[Objective] = objectives(done)
    assert len(kept) == 5
    assert all(objective.met for objective in kept), kept


def test_the_lab_is_held_against_the_real_network() -> None:
    assert objectives([crash(16, 0.6)], {16: [0.55, 0.58, 0.6]})[-1].met
    assert not objectives([crash(16, 0.6)], {16: [0.45, 0.5, 0.51]})[-1].met


def test_a_late_survivor_and_one_that_never_learns_break_the_promise_of_detection() -> None:
    assert verdict("a crash", crash(16, 0.6))
    assert not verdict("a crash", crash(16, 0.9))
    assert not verdict("a crash", crash(16, 0.6, survivors=3))


def test_detection_that_grows_with_the_pool_breaks_the_promise_of_flatness() -> None:
    assert verdict("as fast in large", crash(16, 0.6), crash(128, 0.7))
    assert not verdict("as fast in large", crash(16, 0.5), crash(128, 0.7))


def test_one_wrong_eviction_in_an_hour_of_light_loss_is_too_many_and_of_heavy_loss_is_not() -> None:
    one = (FalseEviction(1.0, "n1", "n2", observer_healthy=True),)
    light = JobOutcome(Job("lossy-hour", 16, 0, loss=0.1), outcome(16, seconds=3600.0, false_evictions=one))
    heavy = JobOutcome(Job("lossy-hour", 16, 0, loss=0.3), outcome(16, seconds=3600.0, false_evictions=one))
    worse = JobOutcome(Job("lossy-hour", 16, 0, loss=0.3), outcome(16, seconds=3600.0, false_evictions=2 * one))
    assert not verdict("10 %", light)
    assert verdict("30 %", heavy)
    assert not verdict("30 %", worse)


def test_a_heal_or_a_start_that_takes_too_long_is_seen() -> None:
    def split(heal: float | None) -> JobOutcome:
        return JobOutcome(Job("even-split", 128, 0), outcome(128, heals=(heal,)))

    def start(joined: float | None, evictions: int = 0) -> JobOutcome:
        return JobOutcome(Job("bootstrap", 1000, 0), outcome(1000, joined_after=joined, evictions=evictions))

    assert verdict("two halves", split(0.8))
    assert not verdict("two halves", split(0.8), split(None))
    assert verdict("1000 members", start(1.4))
    assert not verdict("1000 members", start(3.1))
    assert not verdict("1000 members", start(1.4, evictions=1))


def test_what_becomes_of_the_paused_and_of_the_healthy_is_seen() -> None:
    short = Block("n1", 0.128, evicted_by=0, evictions=0, free=1.0, back_after=None, missing=0)
    long = Block("n1", 2.0, evicted_by=7, evictions=7, free=1.0, back_after=0.1, missing=0)
    assert verdict("under 0.4 s", cell(short))
    assert not verdict("under 0.4 s", cell(replace(short, evicted_by=1, evictions=1)))
    assert verdict("every healthy member has evicted", cell(replace(long, evicted_by=127)))
    assert not verdict("every healthy member has evicted", cell(replace(long, evicted_by=126)))
    late = replace(long, evicted_by=127, missing=3)  # who did not have it back yet has nobody to evict
    assert verdict("every healthy member has evicted", cell(late, replace(long, evicted_by=124)))
    assert not verdict("every healthy member has evicted", cell(late, replace(long, evicted_by=123)))
    assert verdict("at most once", cell(long))
    assert not verdict("at most once", cell(replace(long, evictions=8)))
    assert verdict("alive again", cell(long))
    assert not verdict("alive again", cell(replace(long, back_after=0.31)))
    assert not verdict("alive again", cell(replace(long, back_after=None, missing=1)))
    assert verdict("alive again", cell(replace(long, free=0.1, back_after=None, missing=7), long))
    assert not verdict(
        "grid: no healthy",
        cell(long, false_evictions=(FalseEviction(1.0, "n1", "n2", observer_healthy=True),)),
    )
