"""Stories that once broke a law, each found by the state machine or by hand. They are played again, judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from rumormill.simulations import World
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.operations import Story

STORIES = sorted(Path(__file__).with_name("stories").glob("*.json"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_that_once_failed_passes(path: Path) -> None:
    story = Story.from_json(path.read_bytes())
    world = World(seed=story.seed)
    checker = InvariantChecker(world)
    story.play(world)
    checker.check_convergence()
