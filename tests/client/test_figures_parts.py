"""Several processes that share one figures file. All of them count, whichever wrote last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import LIVENESS_LIMIT
from test_figures import Clock

from rumormill.cli.gates import ClientFiguresSource, parse_gate
from rumormill.client.observability.figures import Figures
from rumormill.client.observability.figures_parts import WINDOW, Counts, FiguresPart, bucket_of, quantile_index, summed

NOTING = """
import sys
from rumormill.client.observability.figures import Figures
figures = Figures("embed", path=sys.argv[1])
for number in range(int(sys.argv[2])):
    figures.note("v2", float(sys.argv[3]), failed=number == 0)
figures.write()
"""
FORKING = """
import os, sys
from rumormill.client.observability.figures import Figures
figures = Figures("embed", path=sys.argv[1])
for _ in range(5):
    figures.note("v2", 0.1, failed=False)
if child := os.fork():
    os.waitpid(child, 0)
else:
    for _ in range(3):
        figures.note("v2", 0.1, failed=True)
figures.write()
"""


def run(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, timeout=LIVENESS_LIMIT)


def releases(path: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(path.read_text())["releases"]
    return found


def parts(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if one != path)


def test_what_several_processes_count_is_in_the_file_and_the_gate_sees_all(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    for requests, seconds in ((98, 0.1), (1, 0.2), (1, 3.0)):
        run(NOTING, path, requests, seconds)
    source = ClientFiguresSource(str(path))
    assert source.value(parse_gate("requests>1"), "embed", "v2") == 100
    assert source.value(parse_gate("errors<1%"), "embed", "v2") == 0.03
    assert source.value(parse_gate("p50<1s"), "embed", "v2") == pytest.approx(0.1, rel=0.02)
    assert source.value(parse_gate("p99<1s"), "embed", "v2") == pytest.approx(3.0, rel=0.02)
    # A process that serves its figures serves those of all.
    served = json.loads(Figures("embed", path=path).json())
    assert served["releases"]["v2"]["requests"] == 100


def test_a_child_after_a_fork_counts_for_itself_and_not_its_parents_requests_again(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    run(FORKING, path)
    found = releases(path)["v2"]
    assert (found["requests"], found["errors"]) == (8, 3)
    assert len(parts(path)) == 2


def test_one_process_alone_has_exact_figures(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    figures = Figures("embed", path=path)
    figures.note("v2", 0.123456, failed=False)
    figures.write()
    assert releases(path)["v2"]["p99"] == 0.123456


def test_a_part_counts_for_a_minute_and_is_then_removed_by_another(tmp_path: Path) -> None:
    path, clock = tmp_path / "figures.json", Clock()
    ended, lives = Figures("embed", path=path, clock=clock), Figures("embed", path=path, clock=clock)
    ended.note("v2", 0.1, failed=True)
    clock.now += WINDOW
    lives.note("v2", 0.1, failed=False)
    assert releases(path)["v2"]["requests"] == 2
    assert len(parts(path)) == 2
    clock.now += 1.0
    lives.note("v2", 0.1, failed=False)
    assert (releases(path)["v2"]["requests"], releases(path)["v2"]["errors"]) == (2, 0)
    assert len(parts(path)) == 1


def test_files_that_are_no_part_of_this_service_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    other = Figures("other", path=path)
    other.note("v2", 0.1, failed=True)
    torn, torn_long_ago = tmp_path / "figures.json.part-1-aa", tmp_path / "figures.json.part-1-bb.new"
    for file in (torn, torn_long_ago):
        file.write_bytes(b'{"service": "embed", "at"')
    os.utime(torn_long_ago, (1000.0, 1000.0))
    figures = Figures("embed", path=path)
    figures.note("v2", 0.1, failed=False)
    found = releases(path)["v2"]
    assert (found["requests"], found["errors"]) == (1, 0)
    assert torn.exists()
    assert not torn_long_ago.exists()


@given(st.lists(st.lists(st.floats(1e-4, 1000), max_size=30), min_size=1, max_size=4))
def test_sums_are_exact_and_percentiles_two_per_cent_too_high_at_most(processes: list[list[float]]) -> None:
    told = []
    for times in processes:
        buckets: dict[int, int] = {}
        for seconds in times:
            buckets[bucket_of(seconds)] = buckets.get(bucket_of(seconds), 0) + 1
        written = FiguresPart("embed", 0.0, {"v2": Counts(len(times), 1, 2, buckets)})
        told.append(msgspec.json.decode(msgspec.json.encode(written), type=FiguresPart))
    found = summed(told)["v2"]
    times = sorted(seconds for one in processes for seconds in one)
    assert (found.requests, found.errors, found.cancelled) == (len(times), len(processes), 2 * len(processes))
    for percentile, share in ((found.p50, 0.5), (found.p90, 0.9), (found.p95, 0.95), (found.p99, 0.99)):
        if times:
            exact = times[quantile_index(len(times), share)]
            assert percentile is not None
            assert exact * 0.999999 <= percentile <= exact * 1.020001
        else:
            assert percentile is None
