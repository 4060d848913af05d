"""What counts as kept, strained and broken, and how it is told."""

import json

import pytest

from rumormill.cli.demo.request_log import RequestSummary
from rumormill.cli.demo.verdict import (
    DeadlinePromise,
    DemoVerdict,
    OutcomePromise,
    PhaseReport,
    Promise,
    ZeroPromise,
    duration,
    plain_lines,
)


def _act(*promises: Promise, requests: int = 300, failed: int = 0, wrong: int = 0) -> PhaseReport:
    made = RequestSummary(
        requests, failed, wrong, 0.004, 0.02, 0.084, troubles=(("ReadError: gone", failed),) * bool(failed)
    )
    return PhaseReport("kill", "kill -9 of w2", 4.0, made, promises)


@pytest.mark.parametrize(
    ("promise", "mark"),
    [
        (DeadlinePromise("slowest", 0.1, 0.1), "kept"),
        (DeadlinePromise("slowest", 0.1, 0.11), "strained"),
        (DeadlinePromise("slowest", 0.1, 0.31), "broken"),
        (DeadlinePromise("slowest", 0.1, None), "broken"),
        (DeadlinePromise("slowest", 0.1, 0.14, late=0.05), "kept"),
        (DeadlinePromise("slowest", 0.1, 0.2, late=0.05), "strained"),
        (DeadlinePromise("slowest", 0.1, 0.36, late=0.05), "broken"),
        (DeadlinePromise("slowest", 0.1, None, late=9.0), "broken"),
        (ZeroPromise("failed", 0, 900), "kept"),
        (ZeroPromise("failed", 1, 900), "broken"),
        (OutcomePromise("ends with 0", True, "code 0"), "kept"),
        (OutcomePromise("ends with 0", False, "code 1"), "broken"),
    ],
)
def test_marks(promise: Promise, mark: str) -> None:
    assert promise.mark == mark


def test_all_kept() -> None:
    verdict = DemoVerdict([_act(DeadlinePromise("evicted", 0.85, 0.6))])
    assert verdict.ok
    assert verdict.sentence == "Every promise kept."


def test_the_delay_of_the_machine_is_deducted_and_reported() -> None:
    verdict = DemoVerdict(
        [_act(DeadlinePromise("routable", 1.0, 1.05, late=0.2), DeadlinePromise("evicted", 0.85, 0.6, late=0.2))]
    )
    assert (verdict.ok, verdict.count("kept")) == (True, 4)
    assert verdict.sentence == "Every promise kept; 1 of them after deducting the delay of this machine."
    lines = plain_lines(verdict)
    assert any("1.05 s (this machine delayed it by 0.20 s)" in line for line in lines)
    assert any(line.endswith("0.60 s") for line in lines)
    assert verdict.as_json()["promises"][2] | {"seen": 0} == {
        "act": "kill",
        "what": "routable",
        "promised": 1.0,
        "seen": 0,
        "mark": "kept",
        "machine_late": 0.2,
    }


def test_a_strained_time_is_reported_and_not_counted_against_the_pool() -> None:
    verdict = DemoVerdict([_act(DeadlinePromise("evicted", 0.85, 0.9))])
    assert verdict.ok
    assert verdict.sentence.startswith("No promise broken; 1 strained")


@pytest.mark.parametrize("act", [_act(failed=1), _act(wrong=1), _act(DeadlinePromise("evicted", 0.85, None))])
def test_one_broken_promise_breaks_the_verdict(act: PhaseReport) -> None:
    verdict = DemoVerdict([_act(), act])
    assert not verdict.ok
    assert "broken" in verdict.sentence


def test_an_interrupted_or_empty_run_shows_nothing() -> None:
    assert not DemoVerdict([_act()], interrupted="SIGINT ended it.").ok
    assert not DemoVerdict([_act(requests=0)]).ok
    assert not DemoVerdict().ok


def test_the_json_says_all_of_it() -> None:
    told = json.loads(json.dumps(DemoVerdict([_act(DeadlinePromise("evicted", 0.85, 0.6), failed=2)]).as_json()))
    assert (told["ok"], told["requests"]) == (False, 300)
    assert [promise["what"] for promise in told["promises"]] == ["failed requests", "wrong answers", "evicted"]
    assert told["promises"][0] == {
        "act": "always",
        "what": "failed requests",
        "promised": 0,
        "seen": 2,
        "mark": "broken",
    }
    assert told["acts"][0]["slowest"] == 0.084
    assert told["acts"][0]["troubles"] == [{"text": "ReadError: gone", "times": 2}]


def test_the_plain_verdict_has_a_line_for_each_act_and_promise() -> None:
    lines = plain_lines(DemoVerdict([_act(DeadlinePromise("evicted", 0.85, 0.6), failed=2)]))
    assert any(line.startswith("kill -9 of w2") and "84 ms" in line for line in lines)
    assert any(line.split()[:3] == ["✗", "always", "failed"] for line in lines)
    assert any(line.split() == ["✓", "kill", "evicted", "within", "0.85", "s", "0.60", "s"] for line in lines)
    assert "2 x in kill: ReadError: gone" in lines
    assert lines[-1] == "1 of 3 promises broken."


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0032, "3.2 ms"), (0.084, "84 ms"), (0.58, "0.58 s"), (12.34, "12.3 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
