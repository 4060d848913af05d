"""After somebody has set the wall clock, events carry the time that the log carries."""

from __future__ import annotations

from rumormill.sidecar.wall_clock import WallClock

HOUR = 3600.0


def test_a_clock_step_is_reported_once_and_a_busy_machine_is_not_a_step() -> None:
    wall, boot, pause = 1_000_000.0, 50.0, 0.0

    def read_boot() -> float:
        nonlocal boot
        boot += pause
        return boot

    clock = WallClock(wall=lambda: wall, boot=read_boot)
    assert clock.offset == wall - boot
    for passed, expected in ((0.0, 0.0), (0.04, 0.0), (HOUR, HOUR + 0.04), (0.0, 0.0), (-2 * HOUR, -2 * HOUR)):
        wall += passed
        assert abs(clock.measure_step() - expected) < 1e-6
    pause = 1.0
    assert clock.measure_step() == 0, "between reading the one and the other the process stood still"
