"""When the sidecar asks for a restart of its worker, and when it does not."""

from __future__ import annotations

import pytest
from test_worker_health import PROBED, busy, story
from watched_worker import HANGS, RIGHT, WRONG, Story

from rumormill.sidecar.health import Condition, MissKind


def hung(**behavior: object) -> Story:
    return story(PROBED, **behavior)


def test_a_stall_asks_for_a_restart_after_its_time_and_not_before() -> None:
    told = hung(counters=lambda t: busy(min(t, 20)), probe=lambda t: RIGHT if t < 20 else HANGS)
    told.run(199)
    assert told.condition is Condition.STALLED
    assert told.health.restart_reason(told.now) is None
    told.run(202)
    reason = told.health.restart_reason(told.now)
    assert reason is not None
    assert "has made no progress for 18" in reason
    assert "stalled" in reason


def test_silence_asks_for_a_restart_too() -> None:
    told = story(check=lambda t: MissKind.NO_ANSWER if t > 10 else None).run(188)
    assert told.health.restart_reason(told.now) is None
    assert told.run(195).health.restart_reason(told.now)


@pytest.mark.parametrize(
    "behavior",
    [
        {"check": lambda t: MissKind.REFUSED},
        {"check": lambda t: MissKind.NO_ANSWER},
        {"check": lambda t: MissKind.REFUSED if t > 5 else None},
        {"check": lambda t: MissKind.REFUSED if 5 < t < 9 else MissKind.NO_ANSWER if t >= 9 else None},
        {"check": lambda t: MissKind.NOT_ASKED if t > 5 else None},
        {"probe": lambda t: HANGS},
        {"probe": lambda t: WRONG if t > 5 else RIGHT},
        {"counters": lambda t: busy(t), "probe": lambda t: HANGS},
    ],
    ids=["never up", "hangs while it loads", "down", "restarting", "ours", "never answered", "wrong", "busy"],
)
def test_what_is_no_hang_asks_for_no_restart(behavior: dict[str, object]) -> None:
    told = hung(**behavior)
    for until in range(50, 1000, 50):
        assert told.run(until).health.restart_reason(told.now) is None
