"""Busy is not dead: what the sidecar makes of all that it sees of a worker, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from watched_worker import HANGS, REFUSED_AS_BUSY, RIGHT, SILENT, WRONG, Story, WorkerModel, late

from rumormill.membership.record import Readiness
from rumormill.sidecar.counters.reading import CounterReading
from rumormill.sidecar.health import Condition, HealthSettings, MissKind
from rumormill.sidecar.probes import ProbeOutcome

PLAIN = HealthSettings(period=1.0)
PROBED_BUDGET = 0.5
PROBED = HealthSettings(period=1.0, probe_budget=PROBED_BUDGET)
STEP = 0.05
IDLE = CounterReading(running=0, waiting=0, progress=7)


def story(settings: HealthSettings = PLAIN, **behavior: object) -> Story:
    return Story(WorkerModel(**behavior), settings)  # type: ignore[arg-type]


def busy(progress: float, running: int = 3, waiting: int = 2) -> CounterReading:
    return CounterReading(running, waiting, progress=progress)


# A worker about which only its readiness check is known.


def test_three_misses_in_a_row_and_one_pass() -> None:
    told = story(check=lambda t: MissKind.BAD_ANSWER if 5 <= t < 10 else None).run(15)
    assert told.changes == [(0.0, Condition.WELL), (7.0, Condition.SILENT), (10.0, Condition.WELL)]
    assert told.verdicts[1].reason == "3 checks missed, the last: bad answer"
    assert told.verdicts[1].failed


def test_silence_counts_as_before_and_is_no_failure() -> None:
    told = story(check=lambda t: MissKind.NO_ANSWER if t >= 5 else None).run(15)
    assert told.changes == [(0.0, Condition.WELL), (pytest.approx(10.0, abs=2 * STEP), Condition.SILENT)]
    assert not told.verdicts[1].failed


def test_a_first_compilation_of_108_seconds_is_starting() -> None:
    told = story(PROBED, check=lambda t: MissKind.REFUSED if t < 108 else None).run(120)
    told = story(PROBED, check=lambda t: MissKind.REFUSED if t < 108 else None).run(120)
    assert told.conditions == [Condition.STARTING, Condition.WELL]
    assert told.changes[-1][0] == pytest.approx(108, abs=1.1)
    assert not [at for at in told.probes if at < 108], "nothing is probed that does not listen"


def test_a_process_that_ends_is_out_at_once_and_its_successor_is_starting() -> None:
    told = story(check=lambda t: MissKind.REFUSED if 3 <= t < 60 else None)
    told.run(3.5).health.process_ended(told.now)
    told.run(4).health.process_started(told.now)
    told.run(70)
    assert told.conditions == [
        Condition.WELL,
        Condition.ENDED,
        Condition.STARTING,
        Condition.WELL,
    ]
    assert told.verdicts[1].reason == "its process has ended"
    assert told.verdicts[1].failed


# A worker with a probe, and no counters.


def fails_from(at: float, outcome: ProbeOutcome) -> Story:
    return story(PROBED, probe=lambda t: outcome if t >= at else RIGHT)


def test_a_wrong_answer_counts_at_once_and_a_right_one_ends_it() -> None:
    told = story(PROBED, probe=lambda t: WRONG if 5 <= t < 8 else RIGHT).run(12)
    assert told.conditions == [
        Condition.STARTING,
        Condition.WELL,
        Condition.WRONG,
        Condition.WELL,
    ]
    assert told.verdicts[2].reason == "wrong answer: the vector holds NaN"
    assert told.verdicts[2].failed
    assert told.out_at() == pytest.approx(5, abs=1.1)


def test_a_reset_counts_at_the_third_time() -> None:
    told = fails_from(5, SILENT).run(12)
    assert told.condition is Condition.SILENT
    assert told.verdicts[-1].reason == "3 probes failed, the last: the connection was reset"
    assert told.out_at() <= 5 + 3 * PROBED_BUDGET, "the second and the third follow at once"


def test_a_hang_counts_after_three_budgets() -> None:
    told = fails_from(5, HANGS).run(12)
    assert told.condition is Condition.SILENT
    assert told.verdicts[-1].reason == "no answer to the probe within 1.5 s"
    assert not told.verdicts[-1].failed
    assert told.out_at() == pytest.approx(5 + 1.5, abs=1.1)


def test_a_right_answer_after_two_seconds_stays_out() -> None:
    told = fails_from(5, late(2.0)).run(40)
    assert told.conditions == [Condition.STARTING, Condition.WELL, Condition.SLOW, Condition.SILENT]
    assert told.out_at() == pytest.approx(5 + 1.5, abs=1.1)


def test_late_answers_are_a_warning_from_the_second_on_and_two_in_time_end_it() -> None:
    told = story(PROBED, probe=lambda t: late(0.8) if 5 <= t < 9.5 else RIGHT).run(20)
    assert told.conditions == [
        Condition.STARTING,
        Condition.WELL,
        Condition.SLOW,
        Condition.WELL,
    ]
    assert told.verdicts[2].readiness is Readiness.WARNING
    assert told.verdicts[2].reason == "slow: no answer to the probe within 0.5 s"
    assert told.changes[2][0] <= 5 + 1.0 + 0.8 + PROBED_BUDGET + 2 * STEP


def test_a_probe_that_still_waits_is_late_once_more_with_each_budget() -> None:
    told = story(
        PROBED,
        probe=lambda t: late(2.0) if t >= 20 else RIGHT,
        callers=lambda t: CounterReading(running=9, progress=int(t * 4)),
    ).run(30)
    assert told.conditions == [Condition.STARTING, Condition.WELL, Condition.SLOW]
    assert told.verdicts[2].reason == "slow: no answer to the probe within 1 s"
    assert told.changes[2][0] <= 20 + 0.5 + 2 * PROBED_BUDGET + 2 * STEP, (
        "callers are there: it is asked twice a second"
    )


def test_one_late_answer_is_nothing() -> None:
    told = story(PROBED, probe=lambda t: late(0.8) if 5 <= t < 5.7 else RIGHT).run(20)
    assert told.conditions == [Condition.STARTING, Condition.WELL]


def test_a_probe_that_could_not_be_sent_says_nothing() -> None:
    unsent = replace(HANGS, seconds=0.001, reason="too many open files")
    assert [c for _, c in fails_from(5, unsent).run(60).changes] == [Condition.STARTING, Condition.WELL]


def test_a_worker_that_answers_its_check_and_hangs_on_every_probe_never_starts() -> None:
    told = story(PROBED, probe=lambda _: HANGS).run(60)
    assert {condition for _, condition in told.changes} == {Condition.STARTING}
    assert told.verdicts[-1].reason


def test_an_overloaded_worker_that_says_so_is_slow_and_no_more() -> None:
    told = fails_from(5, REFUSED_AS_BUSY).run(60)
    assert told.conditions == [Condition.STARTING, Condition.WELL, Condition.SLOW]


def test_what_callers_see_finished_is_progress() -> None:
    told = story(
        PROBED,
        probe=lambda t: HANGS if t >= 5 else RIGHT,
        check=lambda t: MissKind.NO_ANSWER if t >= 5 else None,
        callers=lambda t: CounterReading(running=9, progress=int(t * 4)),
    ).run(120)
    assert told.out_at() is None
    assert told.condition is Condition.SLOW, "its probes are late all the same"


def test_callers_that_wait_and_see_nothing_finished_are_a_stall() -> None:
    told = story(
        PROBED,
        probe=lambda t: HANGS if t >= 20 else RIGHT,
        callers=lambda t: CounterReading(running=9, progress=min(int(t * 4), 80)),
    ).run(40)
    assert told.verdicts[-1].reason.startswith("stalled: 9 requests run and no request was finished for ")
    assert told.out_at() <= 20 + 1.0 + 3 * PROBED_BUDGET + 3 * STEP, (
        "they were seen to end once a second, or more often"
    )


def test_callers_that_saw_a_request_end_every_three_seconds_wait_twice_as_long_for_the_next() -> None:
    told = story(
        PROBED,
        probe=lambda t: HANGS if t >= 60 else RIGHT,
        callers=lambda t: CounterReading(running=9, progress=int(min(t, 61) / 3)),
    ).run(80)
    assert told.out_at() == pytest.approx(60 + 2 * 3, abs=0.5)


def test_callers_that_have_seen_little_wait_for_the_stall_time() -> None:
    told = story(
        PROBED,
        probe=lambda t: HANGS if t >= 4 else RIGHT,
        callers=lambda t: CounterReading(running=9, progress=min(int(t), 4)),
    ).run(20)
    assert told.out_at() == pytest.approx(4 + PROBED.stall_time - 1, abs=1.2), "they report a second late"


def test_one_long_request_that_callers_report_is_no_stall() -> None:
    reports = {"callers": lambda t: CounterReading(running=1, progress=3)}
    assert story(**reports).run(200).conditions == [Condition.WELL]
    assert story(PROBED, **reports).run(200).conditions == [Condition.STARTING, Condition.WELL]


def test_a_worker_is_probed_more_often_while_callers_are_there_and_not_where_a_probe_is_long() -> None:
    def probes(seconds: float, callers: bool) -> int:
        reports = {"callers": lambda t: CounterReading(running=1, progress=int(t))} if callers else {}
        return len(story(PROBED, probe=lambda _: replace(RIGHT, seconds=seconds), **reports).run(20).probes)

    assert probes(0.01, callers=False) == pytest.approx(20, abs=2)
    assert probes(0.01, callers=True) == pytest.approx(38, abs=5)
    assert probes(0.2, callers=True) == pytest.approx(20, abs=3)


# A worker that callers doubt.


def test_a_doubt_lets_the_worker_be_probed_at_once_and_once_a_second_at_most() -> None:
    rare = replace(PROBED, period=30.0)
    told = story(rare).run(10)
    assert len(told.probes) == 1
    for _ in range(30):
        told.health.doubted()
        told.run(told.now + 0.1)
    assert told.probes[1:] == pytest.approx([10, 11, 12], abs=2 * STEP)
    assert told.condition is Condition.WELL, "right answers count, and doubts do not"
    assert len(told.run(40).probes) == 5, "the last doubt had to wait for its turn"


def test_a_doubt_reveals_a_wrong_answer_behind_counters_that_move() -> None:
    told = story(PROBED, probe=lambda t: WRONG if t >= 10 else RIGHT, counters=lambda t: busy(t)).run(10.5)
    told.health.doubted()
    assert told.run(15).out_at() == pytest.approx(10.5, abs=2 * STEP)


def test_probes_of_doubts_take_a_twentieth_of_the_worker_at_most() -> None:
    told = story(replace(PROBED, period=60.0), probe=lambda _: replace(RIGHT, seconds=0.4)).run(10)
    before = len(told.probes)
    while told.now < 50:
        told.health.doubted()
        told.run(told.now + 0.1)
    assert 4 <= len(told.probes) - before <= 6, "a probe takes 0.4 s: one in 8 s"


# A worker with counters.


def test_requests_that_wait_while_no_counter_moves_are_a_stall_and_the_first_movement_ends_it() -> None:
    told = story(PROBED, counters=lambda t: busy(min(t, 20) + max(t - 40, 0)), probe=lambda t: HANGS).run(45)
    assert told.conditions == [Condition.STARTING, Condition.WELL, Condition.STALLED, Condition.WELL]
    stalled = next(verdict for verdict in told.verdicts if verdict.condition is Condition.STALLED)
    assert stalled.reason == "stalled: 2 requests wait, 3 run and no token was produced for 5.0 s"
    assert not stalled.failed
    assert told.out_at() == pytest.approx(25, abs=0.3)
    assert told.changes[-1][0] == pytest.approx(40, abs=0.3)


@pytest.mark.parametrize(
    ("running", "waiting", "words"),
    [
        (0, 3, "3 requests wait and"),
        (1, 0, "1 request runs and"),
        (0, 1, "1 request waits and"),
        (2, 0, "2 requests run and"),
        (4, 1, "1 request waits, 4 run and"),
    ],
)
def test_the_reason_is_a_sentence(running: int, waiting: int, words: str) -> None:
    told = story(counters=lambda t: busy(1, running, waiting)).run(10)
    assert told.verdicts[-1].reason == f"stalled: {words} no token was produced for 5.0 s"


def test_an_idle_engine_stands_still_and_is_well() -> None:
    assert [c for _, c in story(PLAIN, counters=lambda t: IDLE).run(600).changes] == [Condition.WELL]


def test_an_idle_engine_that_hangs_is_found_within_twice_the_stall_time() -> None:
    told = story(PROBED, counters=lambda t: IDLE, probe=lambda t: HANGS if t > 20.1 else RIGHT).run(40)
    assert told.condition is Condition.STALLED
    assert told.verdicts[-1].reason == "stalled: the probe waits and no token was produced for 5.0 s"
    out = told.out_at()
    assert out is not None
    assert out <= 20.1 + 10


def test_an_idle_engine_whose_answers_turn_wrong_is_found_by_the_next_probe() -> None:
    told = story(PROBED, counters=lambda t: IDLE, probe=lambda t: WRONG if t > 20 else RIGHT).run(40)
    assert told.out_at() == pytest.approx(24, abs=4.2)


def test_one_prefill_of_60_seconds_whose_counters_move_is_no_stall() -> None:
    told = story(PROBED, counters=lambda t: busy(t // 2, running=1, waiting=0), probe=lambda t: HANGS).run(90)
    assert told.out_at() is None


def test_a_pause_is_learned_and_twice_as_long_is_granted() -> None:
    def progress(t: float) -> float:
        """It stands still for 4 s in each 10."""
        return t // 10 * 10 + min(t % 10, 6)

    told = story(counters=lambda t: busy(progress(min(t, 66)))).run(120)
    assert told.out_at() == pytest.approx(66 + 8, abs=0.7), "4 s were seen to end: 8 s are granted"


def test_faults_that_heal_do_not_double_the_time_to_the_next_one() -> None:
    """Three times, its counters stand still until a second after that was noticed."""
    frozen = [(20.0, 26.0), (40.0, 47.0), (60.0, 68.0)]

    def progress(t: float) -> float:
        return next((start for start, end in frozen if start <= t < end), t)

    told = story(counters=lambda t: busy(progress(t))).run(80)
    found = [at for at, condition in told.changes if condition is Condition.STALLED]
    assert found == pytest.approx([20 + 5, 40 + 6, 60 + 7], abs=0.5)


def test_what_was_learned_is_bounded_and_forgotten() -> None:
    def counters(t: float) -> CounterReading:
        return busy(0) if t < 1000 else busy(t) if t < 10_000 else busy(10_000)

    told = Story(WorkerModel(counters=counters), PLAIN, step=0.2).run(1200)
    out_again = Story(WorkerModel(counters=lambda t: busy(0) if t < 1000 else busy(min(t, 1100))), PLAIN, step=0.2)
    out_again.run(1300)
    assert told.condition is Condition.WELL
    stalls = [at for at, condition in out_again.changes if condition is Condition.STALLED]
    assert stalls[-1] == pytest.approx(1100 + PLAIN.restart_after, abs=1)


def test_saturated_at_four_times_its_capacity_for_ten_minutes_it_is_never_ejected() -> None:
    """Its health answers late or not at all, the probe waits behind users' requests, its counters move."""
    told = Story(
        WorkerModel(
            check=lambda t: MissKind.NO_ANSWER if t > 5 and t % 7 < 5 else None,
            counters=lambda t: busy(int(t * 3), running=8, waiting=24),
            probe=lambda t: HANGS if t > 5 else RIGHT,
        ),
        PROBED,
        step=0.25,
    ).run(600)
    assert told.out_at() is None
    assert told.condition is Condition.WELL, "a crowd ahead of the probe does not make it slow"
    assert len(told.probes) <= 600 / 30 + 3, "users' requests are not delayed by many probes"


def test_an_engine_that_was_put_to_sleep_is_not_ready_and_no_fault_and_is_not_probed() -> None:
    def counters(t: float) -> CounterReading:
        return replace(IDLE, asleep=20 <= t < 40)

    told = story(PROBED, counters=counters, probe=lambda t: WRONG if 20 <= t < 40 else RIGHT).run(60)
    asleep = Condition.ASLEEP
    assert told.conditions == [Condition.STARTING, Condition.WELL, asleep, Condition.STARTING, Condition.WELL]
    sleep = told.verdicts[2]
    assert (sleep.readiness, sleep.failed) == (Readiness.STARTING, False)
    assert sleep.reason == "its engine was put to sleep, and takes requests again when it is woken"
    assert not [at for at in told.probes if 21 <= at < 40]
    assert told.changes[-1][0] <= 41.1


def test_a_metrics_page_that_is_down_alone_says_nothing() -> None:
    told = story(PROBED, counters=lambda t: busy(t, 1, 0) if t < 20 else None).run(200)
    assert [c for _, c in told.changes if c is not Condition.STARTING] == [Condition.WELL]


def test_without_its_counters_a_hang_is_still_found() -> None:
    told = story(PROBED, counters=lambda t: IDLE if t < 20 else None, probe=lambda t: HANGS if t > 30 else RIGHT).run(
        60
    )
    assert told.condition is Condition.SILENT
    assert told.out_at() == pytest.approx(32, abs=2)


def test_wrong_answers_under_load_are_found_although_the_counters_move() -> None:
    told = story(PROBED, counters=lambda t: busy(t), probe=lambda t: WRONG if t > 10 else RIGHT).run(100)
    assert told.condition is Condition.WRONG
    out = told.out_at()
    assert out is not None
    assert out <= 10 + 31


def test_a_stalled_engine_that_nobody_probes_is_tried_again_once_its_requests_are_gone() -> None:
    told = story(counters=lambda t: busy(5) if t < 20 else IDLE).run(30)
    assert told.conditions == [Condition.WELL, Condition.STALLED, Condition.WELL]


def test_an_engine_that_restarts_begins_its_counters_anew() -> None:
    told = story(
        check=lambda t: MissKind.REFUSED if 10 <= t < 11.5 else None,
        counters=lambda t: busy(100 + t) if t < 10 else None if t < 12 else busy(t - 12, 1, 0),
    ).run(30)
    assert told.conditions == [Condition.WELL]
