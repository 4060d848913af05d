"""``rumormill simulate``, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from seeds import MORE_SEEDS

from rumormill.cli.simulate import simulate
from rumormill.discovery import service_view
from rumormill.simulations.operations import Crash, Cut, Freeze, Rival, Run, Start, Story
from rumormill.simulations.plans import Job, JobOutcome
from rumormill.simulations.world import World


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(simulate, [str(argument) for argument in arguments], prog_name="simulate")


def test_run_says_what_became_of_it() -> None:
    result = call("run", "crash", "--nodes", 4, "--story")
    assert result.exit_code == 0, result.output
    assert "start 4 members" in result.output
    assert "evicted everywhere, s" in result.output


def test_run_in_json_is_reproducible() -> None:
    first, second = (call("run", "rack", "--nodes", 8, "--seed", 3, "-o", "json", "--judge") for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.output == second.output
    assert json.loads(first.output)["detections"][0]["survivors"] == 7


def test_compare_sets_two_side_by_side() -> None:
    result = call("compare", "crash", "--nodes", 6, "--seeds", 1, "-o", "json")
    assert result.exit_code == 0, result.output
    sides = json.loads(result.output)
    assert list(sides) == ["rumormill, 0.2 s", "swim-tuned"]
    assert sides["rumormill, 0.2 s"]["wrong evictions"] == 0
    slower = json.loads(call("compare", "crash", "--nodes", 6, "--seeds", 1, "--other-period", 1, "-o", "json").output)
    assert slower["rumormill, 1 s"]["first eviction, s"] > 2


def test_a_summary_says_what_became_of_the_paused() -> None:
    sides = json.loads(call("compare", "freeze", "--nodes", 6, "--seeds", 1, "-o", "json").output)
    ours = sides["rumormill, 0.2 s"]
    assert ours["pauses"] == ours["pauses that were an eviction"] == 3
    assert 0 < ours["back everywhere after a pause, s"] <= ours["back everywhere after a pause, slowest, s"] <= 0.3
    quiet = json.loads(call("compare", "quiet", "--nodes", 3, "--seeds", 1, "-o", "json").output)
    assert quiet["rumormill, 0.2 s"]["pauses"] is None


@MORE_SEEDS
def test_sweep_takes_up_where_it_was_and_report_makes_one_page(tmp_path: Path) -> None:
    out, page, real = tmp_path / "lab.jsonl", tmp_path / "lab.html", tmp_path / "real.json"
    sweep = ("sweep", "detection", "--seeds", 1, "--max-nodes", 16, "--jobs", 2, "--out", out)
    first = call(*sweep)
    assert first.exit_code == 0, first.output
    lines = out.read_bytes().splitlines(keepends=True)
    assert len(lines) == 10 + 1 + 4
    out.write_bytes(b"".join(lines[:4]) + lines[4][:30])  # as after a crash
    second = call(*sweep)
    assert "15 runs, 4 of them" in second.output
    assert sorted(out.read_bytes().splitlines()) == sorted(line.rstrip() for line in lines)
    real.write_text('{"3": [0.5, 0.6], "16": [0.55]}')
    assert call("report", out, "--real", real, "--out", page).exit_code == 0
    html = page.read_text()
    assert html.count("<svg") >= 1
    assert "memberlist HEAD" in html
    assert "The lab compared with a real network" in html
    assert "http" not in html.replace("http-equiv", "")


def test_replay_plays_a_saved_story(tmp_path: Path) -> None:
    file = tmp_path / "story.json"
    assert call("run", "flapping", "--nodes", 5, "--save", file).exit_code == 0
    result = call("replay", file, "--events", 3)
    assert result.exit_code == 0, result.output
    assert "No invariant was violated" in result.output
    assert "trace " in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "craash"), "there is no scenario 'craash'"),
        (("run", "rack", "--nodes", "3"), "needs at least 4 nodes"),
        (("run", "lifeguard C=4"), "a Lifeguard cell is named like"),
        (("run", "crash", "--judge", "--protocol", "swim-tuned"), "--judge checks invariants of rumormill only"),
        (("run", "crash", "--nodes", "3", "--save", "/nowhere/story"), "cannot write /nowhere/story"),
        (("sweep", "everything"), "there is no plan 'everything'"),
        (("replay", "/nowhere/story"), "cannot read /nowhere/story"),
        (("report", "/nowhere/lab"), "cannot read /nowhere/lab"),
        (("run", "crash", "--protocol", "swim-paper", "--period", "1"), "--period does not apply to swim-paper"),
        (("compare", "crash", "--other-period", "0.2"), "both sides have a period of 0.2 s"),
        (("compare", "crash", "--other-period", "1", "--with", "swim-paper"), "exclude each other"),
    ],
)
def test_mistakes_are_answered_in_one_line_with_a_hint(arguments: tuple[str, ...], complaint: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert complaint in result.output
    assert "hint: " in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--loss", "--period"])
def test_what_is_no_number_is_no_setting(option: str) -> None:
    result = call("run", "quiet", "--nodes", 3, option, "nan")
    assert result.exit_code == 2
    assert "is not a finite number" in result.output


def test_a_saved_story_is_replayed_to_the_byte_under_the_settings_it_was_played_with(tmp_path: Path) -> None:
    file = tmp_path / "story.json"
    played = call("run", "quiet", "--nodes", 4, "--period", 0.5, "--latency", "wan", "--save", file, "-o", "json")
    outcome = json.loads(played.output)
    replayed = call("replay", file, "--no-judge")
    assert f"trace {outcome['trace']}" in replayed.output
    datagrams = sum(second["datagrams"] for second in outcome["traffic"])
    assert datagrams > 0
    assert f"{datagrams} datagrams" in replayed.output


def test_a_judged_run_says_so_and_of_one_view_only_what_can_be_said() -> None:
    assert "No invariant was violated. All members agreed after" in call("run", "quiet", "--nodes", 3, "--judge").output
    troubled = call("run", "quiet", "--nodes", 3, "--loss", 0.05, "--judge")
    assert "faults are active (loss 5%)" in troubled.output


def test_a_replay_that_violates_an_invariant_says_which_and_what_came_before_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "story.json"
    file.write_bytes(Story(1, (Start(4), Run(2.0), Cut(("n3",)), Run(3.0))).to_json())
    monkeypatch.setattr(service_view, "routing_digest", lambda *_: "0" * 16)
    result = call("replay", file)
    assert result.exit_code == 1
    assert "an invariant was violated: owners: " in result.output
    conclusions = [line for line in result.output.splitlines() if line.lstrip()[:1].isdigit()]
    assert len(conclusions) == len(set(conclusions)) > 0


def test_nobody_is_blamed_for_having_no_view_while_faults_are_active(tmp_path: Path) -> None:
    file = tmp_path / "story.json"
    file.write_bytes(Story(1, (Start(4), Run(2.0), Cut(("n1",)), Freeze(("n2",)), Run(2.0))).to_json())
    result = call("replay", file)
    assert result.exit_code == 0, result.output
    assert "could not be checked: at the end faults are active (cut; cut), n2 is frozen" in result.output


def test_ctrl_c_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 means a violated invariant."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(World, "one_view", interrupted)
    result = call("run", "quiet", "--nodes", 3)
    assert (result.exit_code, result.output) == (130, "rumormill: interrupted\n")


def test_a_bar_moves_within_a_long_operation() -> None:
    told: list[float] = []
    Job("even-split", 4, 1).run(on_progress=told.append)
    assert told[:60] == [float(second) for second in range(1, 61)]


def test_real_delays_are_times(tmp_path: Path) -> None:
    out, real = tmp_path / "lab.jsonl", tmp_path / "real.json"
    job = Job("crash", 3, 1)
    out.write_bytes(msgspec.json.encode(JobOutcome(job, job.run())) + b"\n")
    real.write_text('{"3": [0]}')
    result = call("report", out, "--real", real, "--out", tmp_path / "lab.html")
    assert result.exit_code == 2
    assert "hint: " in result.output


def test_stories_and_outcomes_that_are_none_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("{}\n{}\n")
    assert "is not a story" in call("replay", bad).output
    assert "is not an outcome" in call("report", bad).output
    nobody = tmp_path / "nobody.json"
    nobody.write_bytes(Story(1, (Start(2), Run(1.0), Crash(("n7",)))).to_json())
    assert "operation 3 (crash n7): there is no host 'n7'" in call("replay", nobody).output
    twice = tmp_path / "twice.json"
    twice.write_bytes(Story(1, (Start(2), Rival("n1", "n0"))).to_json())
    assert "there is a host n1 already" in call("replay", twice).output
