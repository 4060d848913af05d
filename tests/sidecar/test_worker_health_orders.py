"""Whatever a worker does and in whatever order: busy is never ejected, and what is wrong always is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from test_worker_health import IDLE, PROBED, STEP, busy
from watched_worker import HANGS, REFUSED_AS_BUSY, RIGHT, SILENT, WRONG, Story, WorkerModel, late

from rumormill.sidecar.counters.reading import CounterReading
from rumormill.sidecar.health import Condition, MissKind
from rumormill.sidecar.probes import ProbeOutcome

KINDS = st.sampled_from([None, None, *MissKind])
OUTCOMES = st.sampled_from([RIGHT, RIGHT, WRONG, SILENT, HANGS, late(0.8), late(2.0), REFUSED_AS_BUSY])


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([None, None, MissKind.NO_ANSWER]), min_size=40, max_size=40),
    st.lists(st.sampled_from([RIGHT, SILENT, HANGS, late(0.8), late(2.0), REFUSED_AS_BUSY]), min_size=40, max_size=40),
    st.floats(0.2, 4.0),
    st.integers(1, 50),
)
def test_it_is_never_ejected_while_its_counters_move(
    kinds: list[MissKind | None], outcomes: list[ProbeOutcome], every: float, waiting: int
) -> None:
    """Whatever is silent, late or refused meanwhile. ``every``: seconds between two movements, below the stall time."""
    told = Story(
        WorkerModel(
            check=lambda t: None if t < 3 else kinds[int(t) % 40],
            counters=lambda t: busy(t // every, waiting=waiting),
            probe=lambda t: RIGHT if t < 3 else outcomes[int(t) % 40],
        ),
        PROBED,
        step=0.25,
    ).run(40)
    assert told.out_at() is None, told.verdicts


@settings(max_examples=40)
@given(
    st.sampled_from(["stalled", "wrong", "reset", "hangs", "late", "refused", "bad answer", "silent"]),
    st.floats(4.0, 40.0),
    st.booleans(),
    st.booleans(),
)
def test_it_is_always_ejected_within_the_bound(fault: str, at: float, counted: bool, was_busy: bool) -> None:
    """``counted``: the engine has counters; ``was_busy``: requests were there when it broke."""
    probes = {"wrong": WRONG, "reset": SILENT, "hangs": HANGS, "late": late(2.0)}
    checks = {"refused": MissKind.REFUSED, "bad answer": MissKind.BAD_ANSWER, "silent": MissKind.NO_ANSWER}
    counted = counted or fault == "stalled"
    if counted and fault in ("late", "reset", "silent"):
        was_busy = False  # others' requests excuse these while they make progress

    def counters(t: float) -> CounterReading | None:
        if not counted or (fault == "silent" and t >= at):
            return None
        moving = min(t, at) if fault in ("stalled", "hangs", "silent") else t
        return busy(moving) if was_busy or fault == "stalled" else IDLE

    told = Story(
        WorkerModel(
            check=lambda t: checks.get(fault) if t >= at else None,
            counters=counters,
            probe=lambda t: probes.get(fault, HANGS if fault == "stalled" else RIGHT) if t >= at else RIGHT,
        ),
        PROBED,
    )
    told.run(at + 45)
    if fault == "late" and counted:
        assert told.condition is Condition.SLOW
        return
    out = told.out_at()
    assert out is not None, told.verdicts
    assert out - at <= bound(fault, counted, was_busy)


def bound(fault: str, counted: bool, was_busy: bool) -> float:
    """Seconds. Without counters a probe comes each second; with counters after four, or 30 while they move."""
    if fault == "stalled":
        return 5.5
    if fault in ("refused", "bad answer"):
        return 3.1
    if fault == "silent":
        return 3.1 + 3 + 2
    wait = 1.1 if not counted else 31.0 if was_busy and fault == "wrong" else 4.2
    if fault == "hangs":
        return 5.5 if counted and was_busy else 10.0 if counted else wait + 1.5 + STEP
    return wait + {"wrong": 0.1, "reset": 2.2, "late": 1.6}[fault]


@settings(max_examples=40)
@given(
    st.lists(KINDS, min_size=30, max_size=30),
    st.lists(OUTCOMES, min_size=30, max_size=30),
    st.lists(st.sampled_from([None, IDLE, busy(1), busy(2), busy(3)]), min_size=30, max_size=30),
)
def test_what_went_wrong_is_over_once_all_is_well_again(
    kinds: list[MissKind | None], outcomes: list[ProbeOutcome], readings: list[CounterReading | None]
) -> None:
    told = Story(
        WorkerModel(
            check=lambda t: kinds[int(t)] if t < 30 else None,
            counters=lambda t: readings[int(t)] if t < 30 else busy(t),
            probe=lambda t: outcomes[int(t)] if t < 30 else RIGHT,
        ),
        PROBED,
        step=0.25,
    ).run(75)
    assert told.condition is Condition.WELL
    assert told.health.restart_reason(told.now) is None
    for before, after in zip(told.verdicts, told.verdicts[1:], strict=False):
        assert before.condition is not after.condition
        assert after.reason
