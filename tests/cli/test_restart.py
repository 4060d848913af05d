"""The delays before a restart: doubling to a limit, jittered, and short again after a healthy time."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from rumormill.cli.supervisor.restart import FIRST_DELAY, HEALTHY_SECONDS, MAX_DELAY, Backoff, wanted


@given(st.integers(), st.integers(1, 100))
def test_crashes_in_a_row_are_restarted_ever_more_slowly(seed: int, crashes: int) -> None:
    backoff = Backoff(random.Random(seed))
    for number in range(crashes):
        full = min(MAX_DELAY, FIRST_DELAY * 2.0**number)
        assert full / 2 <= backoff.next_delay(0.1) <= full


@given(st.integers())
def test_a_healthy_life_starts_over(seed: int) -> None:
    backoff = Backoff(random.Random(seed))
    for _ in range(10):
        backoff.next_delay(HEALTHY_SECONDS - 1)
    assert backoff.next_delay(HEALTHY_SECONDS) <= FIRST_DELAY
    assert backoff.next_delay(0) > FIRST_DELAY / 2


def test_workers_that_crash_together_do_not_start_together() -> None:
    assert len({Backoff(random.Random(seed)).next_delay(0) for seed in range(20)}) == 20


def test_which_ends_are_followed_by_a_restart() -> None:
    codes = (0, 1, 137)
    assert [wanted("never", code) for code in codes] == [False, False, False]
    assert [wanted("on-failure", code) for code in codes] == [False, True, True]
    assert [wanted("always", code) for code in codes] == [True, True, True]
