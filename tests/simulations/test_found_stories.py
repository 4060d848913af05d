"""Stories that once broke a law, each found by the state machine or by hand. They are played again, judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from seeds import MORE_SEEDS

from rumormill.simulations import World
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.operations import Story

STORIES = sorted(Path(__file__).with_name("stories").glob("*.json"))
LONG = {"earlier-instance-ended-too", "isolated-anew-by-those-long-missed", "waited-for-the-isolated"}


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=MORE_SEEDS if path.stem in LONG else (), id=path.stem) for path in STORIES]
)
def test_a_story_that_once_failed_passes(path: Path) -> None:
    story = Story.from_json(path.read_bytes())
    world = World(seed=story.seed)
    checker = InvariantChecker(world)
    story.play(world)
    checker.check_convergence()
