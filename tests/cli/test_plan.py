"""How many workers a peak needs, so that some may fail."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rumormill.cli.plan import make_plan, plan


def test_the_plan_shows_the_arithmetic_and_each_failure() -> None:
    done = CliRunner().invoke(plan, ["--peak", "400", "--per-worker", "50", "--failures", "2"])
    assert done.exit_code == 0, done.output
    assert "N = ceil(400 / 50) = 8 workers for the peak" in done.output
    assert "N + F = 10 workers" in done.output
    rows = [line.split() for line in done.output.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:3] for row in rows] == [["0", "10", "80%"], ["1", "9", "89%"], ["2", "8", "100%"], ["3", "7", "114%"]]


def test_a_target_leaves_room_after_the_failures() -> None:
    done = CliRunner().invoke(plan, ["--peak", "400", "--per-worker", "50", "--target", "0.8", "-o", "json"])
    made = json.loads(done.output)
    assert (made["needed"], made["workers"]) == (10, 11)
    assert [step["utilization"] for step in made["steps"][:2]] == [0.7273, 0.8]


@pytest.mark.parametrize(
    "flags", [[], ["--peak", "1"], ["--per-worker", "1"], ["--peak", "1e9", "--per-worker", "0.001"], ["--peak", "-1"]]
)
def test_what_makes_no_plan_is_refused_with_a_hint(flags: list[str]) -> None:
    assert CliRunner().invoke(plan, flags).exit_code == 2


@given(st.floats(0.1, 1e5), st.floats(1, 1e4), st.integers(0, 20), st.floats(0.1, 1.0))
def test_the_peak_fits_after_all_failures_and_needs_every_worker(peak, per_worker, failures, target) -> None:
    made = make_plan(peak, per_worker, failures, target)
    assert peak <= made.needed * per_worker * target * (1 + 1e-6)
    assert made.needed == 1 or peak > (made.needed - 1) * per_worker * target
    assert made.workers == made.needed + failures
