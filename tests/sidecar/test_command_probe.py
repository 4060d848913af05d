"""Probes that run a command or open a connection: what they conclude, and that nothing is left behind."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from limits import LIVENESS_LIMIT

from rumormill.sidecar.probes import ProbeOutcome, ProbeVerdict
from rumormill.sidecar.probes.build import build_probe, default_spec
from rumormill.sidecar.probes.specification import CommandExpect, CommandSpec, TcpSpec
from rumormill.sidecar.settings_values import Seconds, WorkerUrl

WORKER = WorkerUrl.parse("http://127.0.0.1:9001")


async def outcome_of(*command: str, expect: CommandExpect | None = None, give_up: float = 60.0) -> ProbeOutcome:
    spec = CommandSpec(
        command=command, budget=Seconds(min(30, give_up)), give_up=Seconds(give_up), expect=expect or CommandExpect()
    )
    with trio.fail_after(LIVENESS_LIMIT):
        return await build_probe(spec, WORKER).run()


async def test_the_exit_code_decides() -> None:
    assert (await outcome_of("true")).verdict is ProbeVerdict.RIGHT
    outcome = await outcome_of("sh", "-c", "echo no GPU; exit 3")
    assert outcome.verdict is ProbeVerdict.WRONG
    assert outcome.reason == "command sh: exit code 3 and not 0: 'no GPU\\n'"
    assert (await outcome_of("sh", "-c", "exit 3", expect=CommandExpect(exit_code=3))).verdict is ProbeVerdict.RIGHT


async def test_the_output_may_have_to_match() -> None:
    expect = CommandExpect(pattern="^ready$")
    assert (await outcome_of("echo", "ready", expect=expect)).verdict is ProbeVerdict.RIGHT
    outcome = await outcome_of("echo", "busy", expect=expect)
    assert outcome.verdict is ProbeVerdict.WRONG
    assert "does not match" in outcome.reason


async def test_the_command_knows_the_worker_and_not_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMORMILL_HTTP_TOKEN_FILE", "/secret")
    expect = CommandExpect(pattern=r"^http://127.0.0.1:9001 unset$")
    outcome = await outcome_of("sh", "-c", "echo $RUMORMILL_WORKER ${RUMORMILL_HTTP_TOKEN_FILE-unset}", expect=expect)
    assert outcome.verdict is ProbeVerdict.RIGHT, outcome


async def test_endless_output_is_bounded() -> None:
    outcome = await outcome_of(sys.executable, "-c", "print('x' * 10_000_000)", expect=CommandExpect(pattern="^x+$"))
    assert outcome.verdict is ProbeVerdict.RIGHT


async def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait"
    outcome = await outcome_of("sh", "-c", script, give_up=0.5)
    assert outcome.verdict is ProbeVerdict.TIMED_OUT
    assert "it was killed" in outcome.reason
    await _gone(pids)


async def test_a_child_that_outlives_the_command_is_killed_and_not_waited_for(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = await outcome_of(
        "sh", "-c", f"sleep 1000 & echo $! > {pids}; echo ok", expect=CommandExpect(pattern="ok")
    )
    assert outcome.verdict is ProbeVerdict.RIGHT
    await _gone(pids)


async def _gone(pids: Path) -> None:
    """Wait until none of these processes runs. Nobody may reap an orphan here, so a zombie counts as gone."""
    with trio.fail_after(LIVENESS_LIMIT):
        for pid in map(int, pids.read_text().split()):
            while _runs(pid):
                await trio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_command_that_has_vanished_says_so(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    probe = build_probe(CommandSpec(command=(str(program),), budget=Seconds(30), give_up=Seconds(60)), WORKER)
    assert (await probe.run()).verdict is ProbeVerdict.RIGHT
    program.unlink()
    outcome = await probe.run()
    assert outcome.verdict is ProbeVerdict.TIMED_OUT
    assert "it cannot be started: No such file" in outcome.reason


async def test_no_descriptor_is_left_open() -> None:
    await outcome_of("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await outcome_of("true")
        await outcome_of("sleep", "1000", give_up=0.01)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_connection_that_is_accepted_is_right_and_a_refused_one_silence() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, lambda _: trio.sleep(0), 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            spec = TcpSpec(target=f"{host}:{port}", budget=Seconds(30), give_up=Seconds(60))
            assert (await build_probe(spec, WORKER).run()).verdict is ProbeVerdict.RIGHT
        nursery.cancel_scope.cancel()
    outcome = await build_probe(default_spec("tcp"), WorkerUrl.parse(f"http://127.0.0.1:{port}")).run()
    assert outcome.verdict is ProbeVerdict.SILENT
    assert outcome.reason == f"TCP 127.0.0.1:{port}: nothing listens on 127.0.0.1:{port}"
