"""Every invariant can fail: for each sabotage the checker notices. The same stories pass with the protocol whole."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from sabotages import SABOTAGES, Sabotage, Scenario, open_pool, usual
from sample_stories import (
    stranger,
)
from seeds import MORE_SEEDS

from rumormill.gossip import ProtocolSettings
from rumormill.simulations import RumormillFactory, World, invariants, routing_invariants
from rumormill.simulations.invariant_checker import InvariantChecker
from rumormill.simulations.invariants import InvariantViolation


def run_checked(scenario: Scenario, factory: RumormillFactory, seed: int) -> None:
    world = World(seed=seed, factory=factory)
    checker = InvariantChecker(world, ProtocolSettings(max_members=factory.settings.max_members))
    scenario(world)
    checker.check_convergence()


def each_sabotage() -> list[Any]:
    """`make test` leaves out the one that takes as long as all others together."""
    long = MORE_SEEDS, "send all five thousand times"
    return [
        pytest.param(one, marks=long[0] if one.what == long[1] else (), id=f"{one.invariant}: {one.what}")
        for one in SABOTAGES
    ]


@pytest.mark.parametrize("sabotage", each_sabotage())
def test_the_checker_notices(sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage.breaks(monkeypatch)
    with pytest.raises(InvariantViolation) as caught:
        run_checked(sabotage.scenario, sabotage.factory, sabotage.seed)
    assert caught.value.invariant == sabotage.invariant


def test_the_docs_name_every_invariant_and_every_sabotage() -> None:
    page = (Path(__file__).parents[2] / "docs/understand/simulation.md").read_text()
    table = page[page.index("| invariant |") : page.index("An invariant that cannot fail")]
    _, *rows = re.findall(r"^\| ([a-z-]+) \| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE)
    told = {(invariant, what) for invariant, cell in rows for what in cell.split("; ")}
    assert told == {(sabotage.invariant, sabotage.what) for sabotage in SABOTAGES}


def test_every_invariant_has_a_sabotage() -> None:
    written = {
        invariant
        for text in (invariants.__doc__, routing_invariants.__doc__)
        for invariant in re.findall(r"^([a-z-]+)  ", text or "", re.M)
    }
    assert written | {"one-view"} == {sabotage.invariant for sabotage in SABOTAGES}


def whole_runs() -> list[Any]:
    """Every scenario with every seed, also those that no sabotage uses."""
    pairs = itertools.product(dict.fromkeys(s.scenario for s in SABOTAGES), sorted({s.seed for s in SABOTAGES}))
    return [pytest.param(*pair, id=f"{pair[0].__name__}-{pair[1]}") for pair in pairs]


@MORE_SEEDS
@pytest.mark.parametrize(("scenario", "seed"), whole_runs())
def test_the_whole_protocol_passes(scenario: Scenario, seed: int) -> None:
    run_checked(scenario, open_pool if scenario is stranger else usual, seed)
