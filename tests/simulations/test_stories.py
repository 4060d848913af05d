"""Stories are data: they print as stories, survive JSON, and replay to the byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rumormill.simulations import Burst, LinkFault, World
from rumormill.simulations.operations import (
    AnyOperation,
    Crash,
    Cut,
    CutOneWay,
    Degrade,
    DriftClock,
    Freeze,
    Heal,
    InvalidStory,
    JumpClock,
    LeavePool,
    Restart,
    Resume,
    Rival,
    Run,
    Slow,
    Start,
    Story,
)

EVERYTHING: tuple[AnyOperation, ...] = (
    Start(5, over=0.5),
    Run(1.0),
    Cut(("n0", "n1")),
    Cut(("n2",), ("n3",)),
    CutOneWay((), ("n4",)),
    Degrade(LinkFault(loss=0.005, burst=Burst(5.0, 0.5), duplicate=0.1, delay=0.01, jitter=0.02, mtu=1300)),
    Run(2.0),
    Heal(),
    Crash(("n1",)),
    Freeze(("n2",)),
    Slow(("n3",), 0.1),
    JumpClock(("n4",), 3600.0),
    DriftClock(("n0",), 0.001),
    Rival("rival", "n3"),
    Run(3.0),
    Resume(("n2",)),
    Restart(("n1",), new_address=True),
    LeavePool(("n4",)),
    Run(2.0),
)


def test_a_story_prints_as_one() -> None:
    assert str(Story(7, EVERYTHING, title="all of it")) == (
        "all of it (seed 7)\n"
        "  start 5 members, spread over 0.5 s\n"
        "  run 1 s\n"
        "  cut n0, n1 off from everyone else\n"
        "  cut n2 off from n3\n"
        "  cut everyone to n4, one way\n"
        "  fault from everyone to everyone: loss 0.5%, bursts of 0.5 s every 5 s, delay 0.01 s, jitter 0.02 s, "
        "duplicates 10%, mtu 1300\n"
        "  run 2 s\n"
        "  heal the network\n"
        "  crash n1\n"
        "  freeze n2\n"
        "  slow n3: each step about 0.1 s late\n"
        "  jump the clock of n4 by +3600 s\n"
        "  drift the clock of n0 by 0.001 s per second\n"
        "  start rival under the name n3, which is in use\n"
        "  run 3 s\n"
        "  resume n2\n"
        "  restart n1 at a new address\n"
        "  leave n4\n"
        "  run 2 s"
    )


def test_a_story_survives_json_and_replays_to_the_byte() -> None:
    story = Story(7, EVERYTHING)
    again = Story.from_json(story.to_json())
    assert again == story
    traces = []
    for told in (story, again):
        world = World(seed=told.seed)
        told.play(world)
        traces.append((world.now, world.trace.digest(), world.history.tail(1000)))
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"\xff",
        b'{"seed": 1}',
        b'{"seed": 1, "operations": [{"do": "fly"}]}',
        b'{"seed": 1, "operations": [{"do": "run", "seconds": -1}]}',
        b'{"seed": 1, "operations": [], "more": 1}',
        b'{"seed": 1, "operations": [], "period": 0}',
        b'{"seed": 1, "operations": [{"do": "run", "seconds": 1, "more": 1}]}',
        b'{"seed": 1, "operations": [{"do": "jumpclock", "keys": ["n0"], "seconds": 1e308}]}',
        *(
            b'{"seed": 1, "operations": [{"do": "degrade", "trouble": {%s}}]}' % trouble
            for trouble in (
                b'"los": 0.5',
                b'"loss": 7',
                b'"loss": -1',
                b'"duplicate": 2',
                b'"delay": -5',
                b'"delay": 1e300',
                b'"jitter": -1',
                b'"mtu": -1',
                b'"burst": {"mean_good": 0, "mean_bad": 0}',
                b'"burst": {"mean_good": 1, "mean_bad": -1}',
                b'"burst": {"mean_good": 1, "mean_bad": 1, "loss": 2}',
                b'"burst": {"mean_good": 1, "mean_bad": 1, "los": 1}',
            )
        ),
    ],
)
def test_what_is_no_story_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidStory):
        Story.from_json(text)


@pytest.mark.parametrize("fault", [Cut(("n9",)), CutOneWay((), ("n9",)), Degrade(LinkFault(loss=0.1), ("n9",))])
def test_a_fault_on_nobodys_links_is_refused(fault: AnyOperation) -> None:
    with pytest.raises(InvalidStory, match=r"operation 2 .* there is no host 'n9'"):
        Story(1, (Start(2), fault)).play(World(seed=1))


def test_a_story_says_how_long_it_lasts_and_what_is_unusual() -> None:
    story = Story(1, (Start(2, over=1.0), Run(2.5), Heal(), Run(1.0)), "odd", latency="wan", period=1.0)
    assert story.seconds == 4.5
    assert str(story).startswith("odd (seed 1), period 1 s, links of a WAN\n")


def test_the_story_in_the_docs_can_be_played() -> None:
    page = (Path(__file__).parents[2] / "docs/understand/simulation.md").read_text()
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block is not None
    story = Story.from_json(block[1].encode())
    world = story.world()
    story.play(world)
    assert world.history.of("evicted") != []
    assert world.run_until(world.one_view, within=3.0) is not None


def test_a_story_about_nobody_says_where() -> None:
    with pytest.raises(InvalidStory, match=r"operation 2 \(crash n9\): there is no host 'n9'"):
        Story(1, (Start(2), Crash(("n9",)))).play(World(seed=1))
