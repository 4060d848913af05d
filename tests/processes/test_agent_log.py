"""A log that nobody takes: the agent goes on whatever its stderr is, and says how many lines are missing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from agents import COMMAND, Agent, Worker, environment, rumormill, run_agent
from full_pipes import full_pipe, stopped_terminal
from limits import LIVENESS_LIMIT

from rumormill.sidecar.line_writer import MAX_QUEUED_LINES


class Silent:
    """An agent whose log nobody reads: asked over a unix socket, because its log cannot say where it listens."""

    def __init__(self, folder: Path, worker: Worker, stderr: int | None, *flags: str) -> None:
        self.socket = folder / "s"
        settings = ["--name", "silent", "--cluster", "tests", "--service", "embed", "--worker", worker.url]
        settings += ["--gossip", "127.0.0.1:0", "--http", f"unix:{self.socket}", "--insecure-plaintext", *flags]
        command = [*COMMAND, "agent", *settings]
        if stderr is None:
            command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        self.command, self.stderr = command, stderr

    async def start(self) -> trio.Process:
        return await trio.lowlevel.open_process(
            self.command, stdin=subprocess.DEVNULL, stderr=self.stderr, env=environment()
        )

    def client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=str(self.socket))
        return httpx2.AsyncClient(transport=transport, base_url="http://sidecar", timeout=LIVENESS_LIMIT)

    async def ask(self, path: str) -> Any:
        async with self.client() as client:
            with trio.fail_after(LIVENESS_LIMIT):
                while True:
                    try:
                        return (await client.get(path)).json()
                    except httpx2.TransportError:  # it does not listen yet
                        await trio.sleep(0.02)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "closed"])
async def test_an_agent_whose_log_nobody_takes_lives_and_ends_like_any_other(kind: str, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        with full_pipe() if kind == "pipe" else stopped_terminal() as (_, stderr):
            silent = Silent(tmp_path, worker, None if kind == "closed" else stderr, "--drain-time", "10ms")
            process = await silent.start()
            try:
                where = (await silent.ask("/v1/status"))["gossip"]
                other = await Agent.start(nursery, "other", worker, "--join", where)
                await other.until(lambda answer: {w.name for w in answer.workers if w.routable} == {"silent", "other"})
                assert (await silent.ask("/livez"))["ok"]
                status = await silent.ask("/v1/status")
                assert (status["counters"]["log_lines_dropped"] > 0) is (kind == "closed")
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(LIVENESS_LIMIT):
                    assert await process.wait() == 0
            finally:
                process.kill()
        nursery.cancel_scope.cancel()


async def test_an_agent_says_in_its_log_and_its_status_how_many_lines_are_missing(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        with full_pipe() as (reading, stderr):
            silent = Silent(tmp_path, worker, stderr)
            process = await silent.start()
            try:
                await silent.ask("/livez")
                async with silent.client() as client:
                    for _ in range(MAX_QUEUED_LINES * 3 // 5):  # two lines each
                        await client.put("/v1/drain")
                        await client.delete("/v1/drain")
                dropped = (await silent.ask("/v1/status"))["counters"]["log_lines_dropped"]
                assert dropped > 0
                with trio.fail_after(LIVENESS_LIMIT):
                    told = json.loads(await trio.to_thread.run_sync(line_with, reading, '"event": "log"'))
                assert (told["level"], told["member"]) == ("warning", "silent")
                assert told["dropped"] >= dropped
            finally:
                process.kill()
                await process.wait()
        nursery.cancel_scope.cancel()


def line_with(descriptor: int, words: str) -> str:
    with os.fdopen(os.dup(descriptor), encoding="utf-8") as lines:
        return next(line for line in lines if words in line)


async def test_two_signals_end_an_agent_whose_log_nobody_takes(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        with full_pipe() as (_, stderr):
            silent = Silent(tmp_path, worker, stderr, "--drain-time", "1000s")
            process = await silent.start()
            try:
                await silent.ask("/livez")
                process.send_signal(signal.SIGTERM)
                while not (await silent.ask("/v1/status"))["draining"]:
                    await trio.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(LIVENESS_LIMIT):
                    assert await process.wait() == 128 + signal.SIGTERM
            finally:
                process.kill()
        nursery.cancel_scope.cancel()


async def test_what_keeps_an_agent_from_starting_is_still_said(tmp_path: Path) -> None:
    flags = ["--name", "w1", "--cluster", "c", "--service", "s", "--worker", "http://127.0.0.1:1"]
    flags += ["--insecure-plaintext", "--gossip", "127.0.0.1:0", "--http", f"unix:{tmp_path}/none/s"]
    done = await rumormill("agent", *flags)
    assert done.returncode == 5
    *log, trouble, hint = done.stderr.splitlines()
    assert [json.loads(line)["event"] for line in log][:1] == ["bound"]
    assert trouble.startswith("rumormill: cannot listen on --http")
    assert "mkdir" in hint


async def test_a_verb_with_stderr_closed_still_has_its_exit_code() -> None:
    with trio.fail_after(LIVENESS_LIMIT):
        done = await trio.run_process(
            ["sh", "-c", '"$@" 2>&-', "sh", *COMMAND, "agent", "--name", "w1"], check=False, env=environment()
        )
    assert done.returncode == 2


async def test_format_and_level_are_settings_and_the_level_changes_on_reload(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('log-level = "warning"\n')
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = ("--log-format", "text", "--config", str(config), "--http", f"unix:{tmp_path}/w1.sock")
        process = await run_agent("w1", worker, *flags)
        assert process.stderr is not None
        said = b""
        with trio.fail_after(LIVENESS_LIMIT):
            while b"not sealed" not in said:
                said += await process.stderr.receive_some()
            assert b"bound" not in said
            assert re.match(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[warning", said)
            config.write_text('log-level = "info"\n')
            while b"reload" not in said:
                process.send_signal(signal.SIGHUP)
                with trio.move_on_after(1):
                    said += await process.stderr.receive_some()
        process.terminate()
        async for more in process.stderr:
            said += more
        assert b"ended" in said
        assert await process.wait() == 0
        nursery.cancel_scope.cancel()
