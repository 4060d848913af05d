"""What is drawn: every member, every fault, every promise; plain lines where there is no terminal."""

import io

import pytest
from rich.console import Console, RenderableType

from rumormill.cli.demo.request_log import RequestLog, RequestOutcome, RequestSummary
from rumormill.cli.demo.scenario import Phase
from rumormill.cli.demo.screen import LiveScreen, PlainLog, ScreenState, draw, draw_verdict
from rumormill.cli.demo.verdict import DeadlinePromise, DemoVerdict, PhaseReport
from rumormill.discovery.schema.workers import WorkersAnswer
from rumormill.ring.worker import RoutingPolicy, Worker


def _text(drawing: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(drawing)
    return capture.get()


def _answer(**liveness: str) -> WorkersAnswer:
    workers = [
        Worker(
            name=name,
            generation=1,
            instance="0" * 32,
            service="embed",
            url="http://127.0.0.1:1",
            zone="",
            release="",
            weight=1.0,
            liveness=word,  # type: ignore[arg-type]
            readiness="passing",
            utilization=None,
            tags={},
            since="",
        )
        for name, word in liveness.items()
    ]
    return WorkersAnswer("demo", "embed", 1, "p", "0" * 16, False, RoutingPolicy(), workers)


def _scene() -> ScreenState:
    request_log = RequestLog()
    for number in range(300):
        request_log.add(RequestOutcome(10 + number / 100, 10.004 + number / 100, "w1" if number % 4 else "w2"))
    request_log.add(RequestOutcome(13.0, 13.6, None, trouble="ReadError: gone"))
    state = ScreenState(
        request_log,
        answers={"w1": _answer(w1="alive", w2="suspect"), "w3": _answer(w1="alive")},
        member_states={"w1": "running", "w2": "killed", "w3": "frozen"},
        answered_by="hashed n-grams",
        begun=8.0,
    )
    screen = LiveScreen(state, Console(file=io.StringIO()))
    screen.phase_started(Phase("calm", "calm: nothing happens", 1, 10.0))
    screen.phase_started(Phase("kill", "kill -9 of w2", 2, 12.0))
    screen.note("evicted at every survivor: 0.58 s")
    return state


def test_the_screen_shows_the_phase_the_members_and_the_traffic() -> None:
    drawn = _text(draw(_scene(), 14.0))
    assert "2 of 6  kill -9 of w2" in drawn
    assert "answers: hashed n-grams" in drawn
    lines = {line.split()[0]: line for line in drawn.splitlines() if line.strip()}
    assert "running" in lines["w1"]
    assert "●  ·  ·" in lines["w1"]
    assert "killed" in lines["w2"]
    assert "◐  ·  ·" in lines["w2"]
    assert "25%" in lines["w2"]
    assert "frozen" in lines["w3"]
    assert lines["phase"].split() == ["phase", "1", "2"]
    assert lines["requests"].count("✗") == 1
    assert "301 requests" in lines["total"]
    assert "1 failed, 0 wrong" in lines["total"]
    assert "evicted at every survivor: 0.58 s" in drawn


def test_the_screen_can_be_drawn_before_anything_has_happened() -> None:
    state = ScreenState(RequestLog(), {}, dict.fromkeys(("w1", "w2"), "starting"), "hashed n-grams", begun=1.0)
    drawn = _text(draw(state, 1.2))
    assert "starting …" in drawn
    assert "● alive  ◐ suspect  ○ gone" in drawn
    assert drawn.count("–") >= 4


def test_everything_fits_a_terminal_of_80_columns() -> None:
    assert max(len(line.rstrip()) for line in _text(draw(_scene(), 14.0)).splitlines()) <= 80


def test_the_verdict_has_each_promise_and_one_sentence() -> None:
    report = PhaseReport(
        "kill", "kill -9 of w2", 4.0, RequestSummary(400), (DeadlinePromise("evicted everywhere", 0.85, 0.6),)
    )
    drawn = _text(draw_verdict(DemoVerdict([report])))
    assert "✓  kill    evicted everywhere  within 0.85 s  0.60 s" in drawn
    assert drawn.rstrip().endswith("Every promise kept.")


def test_plain_lines_tell_the_same_story(capsys: pytest.CaptureFixture[str]) -> None:
    log = PlainLog()
    log.phase_started(Phase("kill", "kill -9 of w2", 2, 12.0))
    log.note("evicted at every survivor: 0.58 s")
    log.phase_ended(PhaseReport("kill", "kill -9 of w2", 4.0, RequestSummary(400, slowest=0.016)))
    told = [line.split("s  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "2. kill -9 of w2",
        "   evicted at every survivor: 0.58 s",
        "   400 requests, 0 failed, 0 wrong; p50 0.0 ms, p99 0.0 ms, slowest 16 ms",
    ]
