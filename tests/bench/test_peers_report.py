"""The benches' reports: a bound is met or missed, and the plot shows what was measured."""

from __future__ import annotations

import datetime
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from bench.peers.measures import PERIOD, spread_out
from bench.peers.plot import detection_plot
from bench.peers.report import Result, comparisons, read_results, result_of, table
from bench.peers.scenarios import SCENARIOS, PeerScenario
from bench.peers.systems import Conditions
from bench.peers.testbed import Measurements, PeerTestbed

VERSIONS = {"rumormill": "1", "memberlist": "2"}


def scenario(name: str) -> PeerScenario:
    return next(each for each in SCENARIOS if each.name == name)


def result(name: str, **measurements: Measurements) -> Result:
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return result_of(scenario(name), measurements, VERSIONS, "a machine", at, False)


def crashes(*seconds: float, wrong: float = 0) -> Measurements:
    samples = {"silent host, all": list(seconds), "live kernel, all": [one / 10 for one in seconds]}
    return Measurements(samples=samples, numbers={"healthy members evicted": wrong})


def verdicts(found: Result) -> list[str]:
    return re.findall(r"^- (met|MISSED)", table([found]), re.MULTILINE)


def test_a_promise_is_kept_by_what_was_measured_and_by_nothing_else() -> None:
    assert verdicts(result("crash-16", rumormill=crashes(0.5, 0.6, 0.7))) == ["met"] * 5
    assert verdicts(result("crash-16", rumormill=crashes(0.5, 0.6, 0.9))) == [
        "met",
        "MISSED",
        "met",
        "met",
        "met",
    ]
    assert verdicts(result("crash-16", rumormill=crashes(0.5, wrong=1)))[-1] == "MISSED"
    assert verdicts(result("crash-16", rumormill=Measurements())) == ["MISSED"] * 5, "without a measurement"


def test_a_peer_makes_no_promises() -> None:
    assert verdicts(result("crash-16", memberlist=crashes(0.5))) == []


def test_figures_come_back_from_their_file_in_the_scenarios_order(tmp_path: Path) -> None:
    written = [result(name, rumormill=crashes(0.5), memberlist=crashes(1.25)) for name in ("crash-16", "crash-3")]
    for each in written:
        (tmp_path / f"{each.scenario}.json").write_bytes(msgspec.json.encode(each))
    assert read_results(tmp_path, ["crash-3", "crash-16", "crash-64"]) == written[::-1]
    assert "500 / 500 / 500 (1) | 1250 / 1250 / 1250 (1)" in table(written)


def test_a_larger_pool_is_held_beside_the_smaller_and_a_peer_beside_us() -> None:
    small = result("crash-3", rumormill=crashes(0.5), memberlist=crashes(1.0))
    assert "silent host, all: memberlist took 2.00 times as long" in comparisons([small])
    assert "- met: silent host, all: crash-64 compared with crash-3" in comparisons(
        [small, result("crash-64", rumormill=crashes(0.54))]
    )
    assert "- MISSED: silent host, all: crash-64" in comparisons([small, result("crash-64", rumormill=crashes(0.56))])


@pytest.mark.parametrize("slowest", [0.7, 12.0])
def test_every_kill_is_a_dot_in_the_picture(slowest: float) -> None:
    found = result("crash-3", rumormill=crashes(0.45, 0.5, 0.6), memberlist=crashes(0.9, slowest))
    picture = ET.fromstring(detection_plot([found]))
    dots = picture.findall("{*}circle")
    assert len(dots) == 2 * (3 + 2)
    width = float(picture.get("width", 0))
    assert all(0 < float(dot.get("cx", 0)) < width for dot in dots)


def test_with_nothing_measured_the_picture_says_so() -> None:
    assert "nothing measured yet" in detection_plot([])


def test_every_scenario_has_a_name_of_its_own_and_fits_half_an_hour() -> None:
    assert len({each.name for each in SCENARIOS}) == len(SCENARIOS)
    assert sum(each.minutes for each in SCENARIOS) < 35


def test_deaths_fall_into_another_part_of_the_period_each_whatever_round_they_are_in() -> None:
    rng = random.Random(3)
    stages = [PeerTestbed([], 3, Conditions(), rng, lambda _: None, {}, nth=(number, 4)) for number in range(4)]
    moments = [moment for testbed in stages for moment in spread_out(testbed, 5)]
    assert sorted(int(moment / PERIOD * 20) for moment in moments) == list(range(20))
