"""A Redis that may have forgotten claims is not asked until it could no longer matter."""

from __future__ import annotations

import pytest

from rumormill.worker.redis_trust import StoreRestartedError, check_trust


def test_one_that_has_run_for_a_window_is_trusted() -> None:
    check_trust({"uptime_in_seconds": 60, "aof_enabled": 0}, "everysec", 60.0)


def test_one_that_writes_every_command_before_it_answers_is_trusted_at_once() -> None:
    check_trust({"uptime_in_seconds": 1, "aof_enabled": 1}, "always", 60.0)


@pytest.mark.parametrize(("aof", "fsync"), [(0, "always"), (1, "everysec"), (1, ""), (0, "no")])
def test_any_other_that_started_lately_is_not(aof: int, fsync: str) -> None:
    with pytest.raises(StoreRestartedError, match=r"started 12 s ago .* it is used in 48 s"):
        check_trust({"uptime_in_seconds": 12, "aof_enabled": aof}, fsync, 60.0)


def test_one_that_says_nothing_of_itself_is_not() -> None:
    with pytest.raises(StoreRestartedError):
        check_trust({}, "", 60.0)
