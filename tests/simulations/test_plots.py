"""The pictures of a report: what they show is what was measured."""

from __future__ import annotations

import re

from rumormill.simulations.outcome import Detection, RunOutcome
from rumormill.simulations.plans import Job, JobOutcome
from rumormill.simulations.plots import distribution, line_chart
from rumormill.simulations.report import render_report


def heights(svg: str) -> list[list[float]]:
    lines = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[float(point.split(",")[1]) for point in line.split()] for line in lines]


def test_who_never_learned_is_missing_at_the_top_of_a_distribution() -> None:
    delays = {"all": [0.1, 0.2, 0.3, 0.4], "half": [0.1, 0.2]}
    everybody, half = heights(distribution(delays, "seconds", missing={"half": 2}))
    bottom, top = max(everybody), min(everybody)
    assert min(half) == (bottom + top) / 2


def test_a_report_says_who_never_learned() -> None:
    deaths = (Detection("n1", 5.0, 3, (0.5, 0.5)), Detection("n2", 9.0, 3, (0.5, 0.6, 0.6)))
    job = Job("crash", 4, 1)
    page = render_report([JobOutcome(job, played(job, deaths))], {})
    assert "Survivors that never learned: 4 nodes: 1 of 6." in page


def test_large_numbers_leave_room_for_the_name_of_the_axis() -> None:
    svg = line_chart({"a": [(0.0, 1_100.0), (1.0, 190_000.0)]}, "seconds", "bytes", log_y=True)
    labels = re.findall(r'class="t r">([^<]*)<', svg)
    assert "100k" in labels
    assert max(map(len, labels)) <= 5


def test_on_a_scale_of_logarithms_a_tenth_of_a_spike_can_be_seen() -> None:
    ((low, middle, high),) = heights(line_chart({"a": [(0, 1e3), (1, 1e4), (2, 1e5)]}, "s", "bytes", log_y=True))
    assert low - middle == middle - high > 0


def test_a_picture_says_what_it_is_of_to_who_cannot_see_it() -> None:
    assert 'aria-label="bytes by seconds"' in line_chart({"a": [(0.0, 1.0), (1.0, 2.0)]}, "seconds", "bytes")


def played(job: Job, deaths: tuple[Detection, ...]) -> RunOutcome:
    return RunOutcome(
        scenario=job.scenario,
        protocol=job.protocol,
        nodes=job.nodes,
        seed=job.seed,
        seconds=20.0,
        detections=deaths,
        blocks=(),
        false_evictions=(),
        evictions=5,
        suspicions=5,
        joined_after=0.1,
        heals=(),
        one_view_after=0.0,
        traffic=(),
        steady=(17.0, 1100.0),
        trace="",
    )
