"""The file of a sweep: nothing in it is ever lost, and nobody else's is harmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from limits import WALKTHROUGH_LIMIT

from rumormill.cli import simulate as command
from rumormill.cli.exit_codes import BadRequest
from rumormill.cli.parallel_runs import OutcomeFile, _holding_interrupts
from rumormill.cli.simulate import simulate
from rumormill.simulations.plans import Job, JobOutcome

JOBS = [Job("quiet", 2, seed) for seed in range(3)]
DONE = [JobOutcome(job, job.run()) for job in JOBS]
LINES = [msgspec.json.encode(done) + b"\n" for done in DONE]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "lab.jsonl"


def known(out: Path) -> list[JobOutcome]:
    with OutcomeFile(out).open_for_append() as (found, append):
        append(DONE[2])
        return found


@pytest.mark.parametrize(
    "tail",
    [
        LINES[1][:50],
        LINES[1][:50] + b"\n",
        LINES[1][:5],
        LINES[1][:-1],
        bytes(4096),
        bytes(4096) + b"\n",
        b"\n\n",
    ],
)
def test_what_a_crash_left_of_a_last_line_is_taken_off(out: Path, tail: bytes) -> None:
    out.write_bytes(LINES[0] + tail)
    assert OutcomeFile(out).read() == [DONE[0]]
    assert known(out) == [DONE[0]]
    assert OutcomeFile(out).read() == [DONE[0], DONE[2]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LINES[0] + LINES[1][:50] + b"\n" + LINES[2], 2),
        (LINES[0] + bytes(4096) + LINES[1], 2),
        (b'{"3": [0.5]}', 1),
        (b"<!doctype html>", 1),
        (b"\xff\xfe\n", 1),
    ],
)
def test_a_file_that_holds_anything_else_is_left_as_it_is(out: Path, text: bytes, line: int) -> None:
    out.write_bytes(text)
    with pytest.raises(BadRequest, match=f"line {line}, is not an outcome"):
        known(out)
    assert out.read_bytes() == text


def test_two_sweeps_do_not_write_to_one_file(out: Path) -> None:
    with OutcomeFile(out).open_for_append():
        result = sweep(out)
    assert result.exit_code == 2
    assert "another sweep is writing" in result.output
    assert known(out) == [], "it is let go at the end"


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    result = sweep(tmp_path / "nowhere" / "lab.jsonl")
    assert result.exit_code == 2
    assert "cannot write" in result.output
    assert "runs" not in result.output


def test_a_full_disk_loses_nothing_that_was_kept(out: Path) -> None:
    limit = len(LINES[0]) + 100
    script = f"""
import resource, sys
from pathlib import Path
from rumormill.cli.simulate import simulate
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
simulate(["sweep", "pictures", "--jobs", "1", "--out", sys.argv[1]])
"""
    out.write_bytes(LINES[0])
    done = subprocess.run(
        [sys.executable, "-c", script, out], capture_output=True, text=True, timeout=WALKTHROUGH_LIMIT, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert OutcomeFile(out).read() == [DONE[0]]


def test_a_full_disk_leaves_the_report_that_was_there(out: Path, tmp_path: Path) -> None:
    script = """
import resource, sys
from rumormill.cli.simulate import simulate
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
simulate(["report", sys.argv[1], "--out", sys.argv[2]])
"""
    out.write_bytes(LINES[0])
    page = tmp_path / "lab.html"
    page.write_text("the one before")
    argv = [sys.executable, "-c", script, out, page]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WALKTHROUGH_LIMIT, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert page.read_text() == "the one before"
    assert sorted(tmp_path.iterdir()) == sorted([out, page])


def test_without_a_terminal_a_long_sweep_says_how_far_it_is(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def played(jobs: list[Job], workers: int, on_done: Callable[[JobOutcome], None]) -> None:
        for done in DONE:
            on_done(done)

    monkeypatch.setattr(command, "play_all", played)
    monkeypatch.setattr(command, "PROGRESS_LINE_SECONDS", 0.0)
    assert "pictures: 2 of 4\npictures: 3 of 4\n" in sweep(out).output


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_sweep_however_it_ends(ends: signal.Signals) -> None:
    """They hold its standard output, which is at its end when the last of them is gone."""
    script = """
from rumormill.cli.parallel_runs import play_all
from rumormill.simulations.plans import Job
if __name__ == "__main__":
    hours, moment = Job("lossy-hour", 64, 1, loss=0.1), Job("quiet", 2, 1)
    play_all([hours, moment], 2, lambda done: print(done.job.key, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"quiet"), "one is done, and the other is in the middle"
        process.send_signal(ends)
        _, said = process.communicate(timeout=WALKTHROUGH_LIMIT)
    assert process.returncode == -ends
    assert b"Process Spawn" not in said, "no worker has anything to say about it"


def test_who_stops_a_sweep_is_told_what_is_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(jobs: list[Job], workers: int, on_done: Callable[[JobOutcome], None]) -> None:
        on_done(DONE[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "play_all", interrupted)
    result = sweep(out)
    assert result.exit_code == 130
    assert f"interrupted: 1 of 4 runs done and saved in {out}" in result.output
    assert OutcomeFile(out).read() == [DONE[0]]


def sweep(out: Path) -> Result:
    return CliRunner().invoke(simulate, ["sweep", "pictures", "--jobs", "1", "--out", str(out)], prog_name="simulate")


def test_a_ctrl_c_while_workers_start_is_not_lost() -> None:
    def interrupted_meanwhile() -> None:
        with _holding_interrupts():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted_meanwhile()
