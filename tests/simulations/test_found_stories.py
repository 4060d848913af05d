"""Stories that once broke a law, each found by the state machine or by hand. They are played again, judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from rumormill.simulations import World
from rumormill.simulations.judge import Judge
from rumormill.simulations.laws import Violation
from rumormill.simulations.operations import Story

STORIES = sorted(Path(__file__).with_name("stories").glob("*.json"))
UNMENDED = sorted(Path(__file__).with_name("stories").glob("unmended/*.json"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_that_once_failed_passes(path: Path) -> None:
    played(path)


@pytest.mark.parametrize("path", UNMENDED, ids=lambda path: path.stem)
@pytest.mark.xfail(raises=Violation, strict=True)
def test_a_story_that_breaks_a_law_as_things_stand(path: Path) -> None:
    """Once it passes, it belongs among the others."""
    played(path)


def played(path: Path) -> None:
    story = Story.from_json(path.read_bytes())
    world = World(seed=story.seed)
    judge = Judge(world)
    story.play(world)
    judge.calm()
