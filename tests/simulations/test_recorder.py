"""What the referee measures, against stories of which the answer is known; and what the scenarios come to."""

from __future__ import annotations

import msgspec
import pytest
from seeds import MORE_SEEDS

from rumormill.simulations.lifeguard import GridCell, grid, sub_grid
from rumormill.simulations.operations import Crash, Cut, Freeze, Heal, Resume, Run, Start, Story
from rumormill.simulations.outcome import RunOutcome
from rumormill.simulations.plans import PLANS, Job, plan
from rumormill.simulations.recorder import play
from rumormill.simulations.scenarios import SCENARIOS
from rumormill.simulations.swim import SwimFactory, SwimSettings

QUICK = SwimSettings(period=0.2, timeout=0.1, suspicion_mult=1.0)


def test_a_death_is_timed_at_every_survivor() -> None:
    outcome = play(Story(1, (Start(8), Run(3.0), Crash(("n3",)), Run(3.0))))
    (detection,) = outcome.detections
    assert (detection.member, detection.at, detection.survivors) == ("n3", 3.0, 7)
    assert len(detection.delays) == 7
    assert detection.first is not None
    assert detection.everywhere is not None
    assert 0.42 < detection.first <= detection.everywhere < 0.8
    assert outcome.joined_after is not None
    assert outcome.joined_after < 1.0
    assert outcome.false_evictions == ()
    assert outcome.one_view_after == 0.0


def test_a_freeze_is_no_wrong_eviction_and_its_end_is_timed() -> None:
    outcome = play(Story(1, (Start(8), Run(3.0), Freeze(("n3",)), Run(2.0), Resume(("n3",)), Run(3.0))))
    (block,) = outcome.blocks
    assert (block.member, block.seconds, block.evicted_by) == ("n3", 2.0, 7)
    assert block.back_after is not None
    assert block.back_after < 0.3
    assert outcome.false_evictions == ()


def test_a_heal_is_timed_to_one_view() -> None:
    half = ("n0", "n1", "n2", "n3")
    outcome = play(Story(1, (Start(8), Run(3.0), Cut(half), Run(5.0), Heal(), Run(5.0))))
    (heal,) = outcome.heals
    assert heal is not None
    assert heal < 3.0
    assert outcome.evictions >= 32
    assert outcome.false_evictions == ()


def test_traffic_is_counted_each_second() -> None:
    outcome = play(Story(1, (Start(8), Run(10.0))))
    assert [t.at for t in outcome.traffic] == [float(n) for n in range(1, 11)]
    datagrams, octets = outcome.steady
    assert 15 <= datagrams <= 20
    assert octets < 120 * datagrams


def test_the_picture_shows_who_believed_what() -> None:
    outcome = play(Story(1, (Start(4), Run(2.0), Crash(("n3",)), Run(2.0))))
    assert outcome.timeline is not None
    rows = dict(zip(outcome.timeline.members, outcome.timeline.rows, strict=True))
    assert rows["n3"].endswith("-" * 20)
    assert rows["n0"].startswith("x")
    assert "g" in rows["n0"][20:]
    assert rows["n0"].endswith(".....")


def test_an_outcome_survives_json() -> None:
    outcome = play(Story(1, (Start(3), Run(2.0), Crash(("n1",)), Run(2.0))))
    assert msgspec.json.decode(msgspec.json.encode(outcome), type=RunOutcome) == outcome


def test_the_baseline_detects_and_spreads() -> None:
    story = Story(1, (Start(16), Run(5.0), Crash(("n3",)), Run(8.0)))
    outcome = play(story, factory=SwimFactory(QUICK), protocol="swim")
    (detection,) = outcome.detections
    assert detection.everywhere is not None
    assert 0.3 < detection.everywhere < 3.0
    assert outcome.false_evictions == ()
    assert outcome.steady[0] == pytest.approx(10, abs=1)  # a ping and an ack each way, five times a second


def test_the_baseline_leaves_a_split_split() -> None:
    half = ("n0", "n1", "n2", "n3")
    story = Story(1, (Start(8), Run(3.0), Cut(half), Run(10.0), Heal(), Run(5.0)))
    assert play(story, factory=SwimFactory(QUICK), settle=10.0).one_view_after is None


SHORT = {"crash", "freeze", "small-split", "rolling-upgrade"}
"""Scenarios whose run takes no time to speak of."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SHORT else MORE_SEEDS) for name in SCENARIOS if name != "lossy-hour"],
)
def test_every_scenario_ends_in_one_view_and_nobody_well_is_evicted(name: str) -> None:
    outcome = Job(name, 12, seed=1).run()
    assert outcome.one_view_after is not None
    assert outcome.false_evictions == ()
    assert all(d.everywhere is not None and d.everywhere < 1.2 for d in outcome.detections)


def test_plans_name_runs_that_exist_and_each_once() -> None:
    for name in PLANS:
        jobs = plan(name, 2)
        keys = [job.key for job in jobs]
        assert len(set(keys)) == len(keys) > 0
        for job in jobs[:3]:
            assert job.story().operations
            assert job.cost > 0


def test_lifeguards_grid_is_complete_and_a_cell_lasts_a_minute() -> None:
    cells = list(grid())
    assert len(cells) == len(set(cells)) == 9 * 6 * 8
    assert set(sub_grid()) <= set(cells) | set(sub_grid())
    story = GridCell(4, 2048, 64).story(1)
    length = sum(getattr(operation, "seconds", 0.0) for operation in story.operations)
    assert 63.0 <= length <= 66.5
    frozen = {operation.keys for operation in story.operations if isinstance(operation, Freeze)}
    assert len(frozen) == 1
    assert len(frozen.pop()) == 4
