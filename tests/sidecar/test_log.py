"""A log that nobody takes: the agent goes on whatever its stderr is, and says how many lines are missing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from agents import COMMAND, PATIENCE, Agent, Worker, environment, rumormill

from rumormill.sidecar.line_writer import QUEUED_LINES, LineStream, LineWriter

FLOOD = QUEUED_LINES * 3


def about_loss(lost: int) -> str:
    return f"{lost} lost"


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends; nothing goes into it until somebody reads."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b".")
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def stopped_terminal() -> Iterator[tuple[int, int]]:
    """A terminal on which somebody has pressed Ctrl-S."""
    person, program = os.openpty()
    termios.tcflow(program, termios.TCOOFF)
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


def test_lines_that_nobody_takes_are_dropped_and_counted() -> None:
    with full_pipe() as (reading, writing):
        writer = LineWriter(os.dup(writing), about_loss)
        for number in range(FLOOD):
            writer.put(f"line {number}")
        assert FLOOD - 2 * QUEUED_LINES <= writer.dropped <= FLOOD - QUEUED_LINES, "what is queued, and in the write"
        got: list[str] = []
        reader = threading.Thread(target=lambda: got.extend(_lines_until(reading, FLOOD)))
        reader.start()
        reader.join(PATIENCE)
        assert _missing(got) == writer.dropped, "told without a further line"
        writer.put("line after")
        assert _lines_until(reading, 1) == ["line after"], "told once"
        writer.close()


def _lines_until(descriptor: int, count: int) -> list[str]:
    """What is read until so many lines have come, or were told to be lost."""
    read = b""
    while not read.endswith(b"\n") or sum(map(_stands_for, _lines(read))) < count:
        read += os.read(descriptor, 4096)
    return _lines(read)


def _lines(read: bytes) -> list[str]:
    return read.decode().lstrip(".").splitlines()


def _stands_for(line: str) -> int:
    number, _, lost = line.partition(" ")
    return int(number) if lost == "lost" else 1


def _missing(lines: list[str]) -> int:
    """How many numbered lines are missing in all; each gap must be told where it is, and the rest be in order."""
    count = missing = 0
    for line in lines:
        if line.endswith("lost"):
            missing += _stands_for(line)
        else:
            assert line == f"line {count}"
        count += _stands_for(line)
    assert count == FLOOD
    return missing


def test_what_cannot_be_written_is_counted_and_told_when_it_can() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, about_loss)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), writing)
    writer.put("nobody sees this")
    while writer.dropped == 0:
        pass
    os.close(reading)
    reading, again = os.pipe()
    os.dup2(again, writing)
    writer.put("and this is seen")
    assert _lines_until(reading, 2) == ["1 lost", "and this is seen"]
    writer.close()
    for descriptor in (reading, again, writing):
        os.close(descriptor)


def test_a_descriptor_made_non_blocking_by_somebody_else_loses_nothing() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    writer = LineWriter(writing, about_loss)
    lines = [f"{number} {'x' * 1000}" for number in range(100)]
    for line in lines:
        writer.put(line)
    assert _lines_until(reading, 100) == lines
    writer.close()
    os.close(reading)
    os.close(writing)


def test_closed_from_the_start() -> None:
    writer = LineWriter(None, about_loss)
    writer.put("a")
    writer.put("b")
    writer.close()
    assert writer.dropped == 2


def test_the_end_waits_no_longer_than_it_says() -> None:
    with full_pipe() as (_, writing):
        writer = LineWriter(os.dup(writing), about_loss)
        writer.put("never taken")
        writer.close(timeout=0.01)


def test_a_stream_hands_on_whole_lines() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, about_loss)
    stream = LineStream(writer, terminal=False)
    print("a", "b", file=stream)
    print("one\ntwo", end="", file=stream)
    print("!", file=stream)
    assert _lines_until(reading, 3) == ["a b", "one", "two!"]
    writer.close()
    os.close(reading)
    os.close(writing)


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

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://sidecar", timeout=PATIENCE)

    async def ask(self, path: str) -> Any:
        async with self.client() as client:
            with trio.fail_after(PATIENCE):
                while True:
                    try:
                        return (await client.get(path)).json()
                    except httpx.TransportError:  # it does not listen yet
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
                with trio.fail_after(PATIENCE):
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
                    for _ in range(QUEUED_LINES * 3 // 5):  # two lines each
                        await client.put("/v1/drain")
                        await client.delete("/v1/drain")
                dropped = (await silent.ask("/v1/status"))["counters"]["log_lines_dropped"]
                assert dropped > 0
                with trio.fail_after(PATIENCE):
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
                with trio.fail_after(PATIENCE):
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
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            ["sh", "-c", '"$@" 2>&-', "sh", *COMMAND, "agent", "--name", "w1"], check=False, env=environment()
        )
    assert done.returncode == 2
