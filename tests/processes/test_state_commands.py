"""Commands of the operator's run at each change of the worker's state, and harm nobody: not even those that hang."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from agents import Agent, Worker, all_routable, has, pool, unexcused_doubts
from limits import LIVENESS_LIMIT

from rumormill.sidecar import load
from rumormill.sidecar.state_commands import MAX_OUTPUT_BYTES, MAX_RUNNING, MAX_WAITING, StateChange, StateCommands

CRITICAL = StateChange("passing", "critical", "it is gone")


async def until_file(path: Path, text: str) -> None:
    """Wait until the file has this text."""
    with trio.fail_after(LIVENESS_LIMIT):
        while not path.exists() or text not in path.read_text():
            await trio.sleep(0.02)


async def test_each_state_has_its_command_and_is_told_why(tmp_path: Path) -> None:
    told = tmp_path / "told"
    tell = f'echo "$0 $RUMORMILL_NAME $RUMORMILL_OLD_STATE-$RUMORMILL_STATE: $RUMORMILL_REASON" >> {told}'
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = [f"--on-{state}={tell.replace('$0', state)}" for state in ("passing", "critical", "draining", "change")]
        agent = await Agent.start(nursery, "w1", worker, *flags, "--worker-check-period", "50ms")
        await until_file(told, "passing w1 starting-passing: the worker is passing: it answers")
        worker.status = 503
        await until_file(
            told, "critical w1 passing-critical: the worker is critical: 3 checks missed, the last: GET /health"
        )
        worker.status = 200
        await until_file(told, "passing w1 critical-passing")
        await agent.ask("/v1/drain", "PUT")
        await until_file(told, "-draining: the worker is draining")
        line = await agent.logged("command", setting="on-draining")
        assert (line["state"], line["exit_code"], line["output"]) == ("draining", 0, "")
        with trio.fail_after(LIVENESS_LIMIT):
            while len(told.read_text().splitlines()) < 8:
                await trio.sleep(0.02)
        assert sum(text.startswith("change ") for text in told.read_text().splitlines()) == 4
        nursery.cancel_scope.cancel()


async def test_commands_that_hang_delay_neither_gossip_nor_the_end(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hang = f"echo $$ >> {pids}; trap '' TERM; while :; do sleep 1000; done"
    async with pool(2, "--on-change", hang, "--command-timeout", "1000s") as ([first, second], _):
        for _ in range(MAX_RUNNING):
            await first.ask("/v1/drain", "PUT")
            await second.until(has("w1", readiness="draining"))
            await first.ask("/v1/drain", "DELETE")
            await second.until(has("w1", readiness="passing"))
        with trio.fail_after(LIVENESS_LIMIT):
            while not pids.exists() or len(pids.read_text().split()) < MAX_RUNNING:
                await trio.sleep(0.02)
        await second.until(all_routable("w1", "w2"))
        assert await unexcused_doubts([first, second]) == []
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0
        with trio.fail_after(LIVENESS_LIMIT):
            while any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split()):
                await trio.sleep(0.02)


@asynccontextmanager
async def commands(**given: str) -> AsyncIterator[tuple[StateCommands, list[dict[str, Any]]]]:
    """Running commands with these settings, and the lines of their log."""
    flags = {
        "name": "w1",
        "cluster": "c",
        "service": "s",
        "worker": "http://127.0.0.1:9001",
        "insecure-plaintext": True,
    }
    settings = load(flags | {key.replace("_", "-"): value for key, value in given.items()}, {})
    with structlog.testing.capture_logs() as lines:
        run = StateCommands(settings, structlog.get_logger())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.run)
            yield run, lines  # type: ignore[misc]
            nursery.cancel_scope.cancel()


async def logged(lines: list[dict[str, Any]], count: int = 1) -> list[dict[str, Any]]:
    with trio.fail_after(LIVENESS_LIMIT):
        while len(lines) < count:
            await trio.sleep(0.01)
    return lines


async def test_a_command_that_takes_too_long_is_killed_and_told_with_what_it_printed() -> None:
    async with commands(on_critical="echo before; sleep 1000", command_timeout="300ms") as (run, lines):
        run.changed(CRITICAL)
        [line] = await logged(lines)
        assert line["exit_code"] == -signal.SIGKILL
        assert line["output"] == "before"
        assert line["log_level"] == "warning"
        assert "--command-timeout" in line["text"]


@pytest.mark.parametrize("loud", ["yes | head -c 10000000; exit 3", "yes >&2 | head -c 10000000 ; exit 3", "exit 3"])
async def test_output_is_read_and_bounded_and_the_exit_code_told(loud: str) -> None:
    loud = loud.replace("yes >&2 | head -c 10000000", "yes | head -c 10000000 >&2")
    async with commands(on_critical=loud) as (run, lines):
        run.changed(CRITICAL)
        [line] = await logged(lines)
        assert line["exit_code"] == 3
        assert line["log_level"] == "warning"
        assert len(line["output"]) <= MAX_OUTPUT_BYTES


async def test_a_burst_of_changes_is_bounded_and_what_is_not_run_is_told() -> None:
    burst = 2 * (MAX_RUNNING + MAX_WAITING)
    async with commands(on_critical="true") as (run, lines):
        for _ in range(burst):
            run.changed(CRITICAL)
        await logged(lines, burst)
        refused = [line for line in lines if "not run" in line["text"]]
        assert burst - MAX_WAITING - 1 <= len(refused) <= burst - MAX_WAITING
        assert all(line.get("exit_code") == 0 for line in lines if line not in refused)


async def test_other_states_and_no_command_run_nothing() -> None:
    async with commands(on_passing="true") as (run, lines):
        run.changed(CRITICAL)
        run.changed(StateChange("critical", "passing", "it answers"))
        [line] = await logged(lines)
        assert line["state"] == "passing"
