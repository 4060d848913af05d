"""The demo itself, as a process: it keeps its promises, and leaves nothing behind however it ends."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import LIVENESS_LIMIT, WALKTHROUGH_LIMIT

from rumormill.cli.demo import process_reaper
from rumormill.cli.demo.caller import check_exactly, check_shape
from rumormill.cli.demo.embedding import embed

DEMO = [sys.executable, "-c", "from rumormill.cli.main import main; main()", "demo"]
OWN_WORKER = f"{sys.executable} -m rumormill.cli.demo.worker --port {{port}} --name somebody"


def _demo(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *flags], capture_output=True, text=True, timeout=WALKTHROUGH_LIMIT, check=False)


@pytest.fixture(scope="module")
def played() -> subprocess.CompletedProcess[str]:
    return _demo("--json", "--pace", "0.4")


def test_the_demo_keeps_its_promises(played: subprocess.CompletedProcess[str]) -> None:
    told = json.loads(played.stdout)
    assert played.returncode == (not told["ok"]), told
    # How long each took is a matter of the machine, too; that it came about is not.
    assert all(promise["seen"] is not None for promise in told["promises"]), told
    assert all(promise["mark"] == "kept" for promise in told["promises"] if "machine_late" not in promise), told
    assert [act["act"] for act in told["acts"]] == ["calm", "kill", "restart", "freeze", "thaw", "drain"]
    # How many requests fit into a phase is a matter of the machine as well.
    assert all(act["requests"] for act in told["acts"]), told
    assert sum(act["failed"] + act["wrong"] for act in told["acts"]) == 0


def test_with_json_nothing_else_is_said(played: subprocess.CompletedProcess[str]) -> None:
    assert played.stderr == ""
    assert played.stdout.startswith("{")


def test_a_model_server_of_ones_own_is_checked_for_shape_and_the_demo_says_so() -> None:
    ended = _demo("--pace", "0.1", "--worker-command", OWN_WORKER, "--rate", "50")
    assert "a model server of yours; checked for their shape only" in ended.stdout
    for never in ("wrong answers", "failed requests"):
        assert re.search(f"^✓ +always +{never}", ended.stdout, re.MULTILINE), ended.stdout


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--worker-command", "serve"], 2, "rumormill: the worker command has no {port}"),
        (["--rate", "0"], 2, "Invalid value for '--rate'"),
        (["--worker-command", "/nowhere/serve {port}"], 1, "cannot be started: /nowhere/serve: No such file"),
        (["--worker-command", "false {port}"], 1, "the worker of w1 has ended with code 1"),
        (
            ["--worker-command", "sleep 60{port}", "--worker-wait", "1"],
            1,
            "one view of three workers: not seen within 1 s at w1",
        ),
    ],
)
def test_what_cannot_run_is_said_in_words(flags: list[str], code: int, words: str) -> None:
    ended = _demo(*flags)
    assert ended.returncode == code
    assert words in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@contextlib.contextmanager
def _running() -> Iterator[tuple[subprocess.Popen[str], Path, list[int]]]:
    """A demo in its second act, its directory, and descriptors of all it has started."""
    demo = subprocess.Popen(
        [*DEMO, "--plain"], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert demo.stdout is not None
    while " 2. kill -9" not in demo.stdout.readline():
        assert demo.poll() is None
    pids = [int(pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()]
    directories = {
        word
        for pid in pids
        for word in process_reaper.environment(pid)
        if word.startswith(process_reaper.POOL_VARIABLE.encode())
    }
    assert len(directories) == 1
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield demo, Path(directories.pop().partition(b"=")[2].decode()), descriptors
    finally:
        demo.kill()
        demo.communicate()
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_is_left_when_it_is_stopped(number: signal.Signals, code: int) -> None:
    with _running() as (demo, directory, descriptors):
        assert len(descriptors) >= 5
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=LIVENESS_LIMIT)
        assert demo.returncode == code
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], LIVENESS_LIMIT)[0]
        assert process_reaper.pool_processes(str(directory)) == []
        assert not directory.exists()
        if number is not signal.SIGKILL:
            assert f"The demo did not run to its end: {number.name} ended it." in said


def test_a_reader_that_goes_away_and_an_old_terminal_are_no_trouble() -> None:
    with subprocess.Popen(
        [*DEMO, "--plain", "--pace", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "ascii"},
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        assert demo.stdout.readline().startswith("Answers: ")
        demo.stdout.close()
        assert demo.stderr.read() == ""
        assert demo.wait(WALKTHROUGH_LIMIT) in (0, 1), "1 where the machine was too busy for a time that was promised"


def test_answers_are_checked() -> None:
    right = {"data": [{"embedding": embed("a text")}]}
    assert check_exactly("a text", right) is None
    assert check_exactly("another", right) == "the embedding is not that of the text sent"
    for bad in (None, {}, {"data": []}, {"data": [{}]}, [], "text"):
        assert check_exactly("a text", bad) == check_shape(bad) == "the answer holds no embedding"
    assert check_shape(right) is None
    for vector in ([], [0.0, 0.0], ["a"], [None]):
        assert check_shape({"data": [{"embedding": vector}]}) == "the embedding is not a list of numbers"
    assert check_shape({"data": [{"embedding": "x"}]}) == "the embedding is not a list"
