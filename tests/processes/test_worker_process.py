"""Whose end is told: a process by its id for one life, a process named by a file or found by its listening socket for
all its lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from agents import Agent, Worker
from limits import LIVENESS_LIMIT

from rumormill.sidecar.settings_values import HostPort
from rumormill.sidecar.worker_process import ProcessSource, WorkerProcess


class Supervisor:
    """Starts a process that does nothing, and writes its id to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> int:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.running.append(process)
        beside = self.path.with_suffix(".new")
        beside.write_text(f"{process.pid}\n")
        beside.replace(self.path)
        return process.pid

    def kill(self) -> None:
        self.running[-1].kill()
        self.running[-1].communicate()

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


class Watched:
    """What a WorkerProcess says."""

    def __init__(self, source: ProcessSource) -> None:
        self.process = WorkerProcess(
            source,
            on_start=lambda: self._hear("start"),
            on_end=lambda: self._hear("end"),
            on_event=self._hear,
        )
        self.said: list[str] = []
        self._more = trio.Event()

    def _hear(self, words: str) -> None:
        self.said.append(words)
        self._more.set()
        self._more = trio.Event()

    async def until(self, words: str) -> None:
        with trio.fail_after(LIVENESS_LIMIT):
            while not any(words in said for said in self.said):
                await self._more.wait()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "worker.pid")
    yield supervisor
    supervisor.close()


@asynccontextmanager
async def watching(
    pid: int | None = None, path: Path | None = None, listens_on: HostPort | None = None
) -> AsyncIterator[Watched]:
    watched = Watched(ProcessSource(pid, path, listens_on))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.process.run)
        yield watched
        nursery.cancel_scope.cancel()


async def test_a_process_id_is_used_up_by_its_end_and_says_so(supervisor: Supervisor) -> None:
    pid = supervisor.start()
    async with watching(pid, None) as watched:
        await watched.until(f"process {pid} is watched")
        supervisor.kill()
        await watched.until("no longer watched")
        assert watched.said[:3] == ["start", f"process {pid} is watched", "end"]
        assert watched.process.state_text == watched.said[-1]


async def test_a_file_is_followed_through_restarts(supervisor: Supervisor) -> None:
    async with watching(None, supervisor.path) as watched:
        await watched.until("waiting for")
        lives = []
        for life in range(1, 4):
            lives.append(supervisor.start())
            await watched.until(f"process {lives[-1]} is watched")
            assert watched.said.count("end") == life - 1
            supervisor.kill()
            await watched.until(f"process {lives[-1]} has ended")
        assert (watched.said.count("start"), watched.said.count("end")) == (3, 3)
        new = supervisor.start()
        await watched.until(f"process {new} is watched")
        newer = supervisor.start()  # while the one before still runs
        await watched.until(f"process {newer} is watched")
        assert watched.said.count("end") == 3


async def test_a_file_that_names_nobody_is_told_and_read_again(supervisor: Supervisor) -> None:
    supervisor.path.write_text("no number")
    async with watching(None, supervisor.path) as watched:
        await watched.until("waiting for")
        gone = supervisor.start()
        supervisor.kill()
        supervisor.path.write_text(f"{gone}\n\n")
        await watched.until(f"process {gone} ")
        pid = supervisor.start()
        await watched.until(f"process {pid} is watched")


async def test_a_process_younger_than_its_file_is_somebody_elses(supervisor: Supervisor) -> None:
    stranger = supervisor.start()
    os.utime(supervisor.path, (1e9, 1e9))
    async with watching(None, supervisor.path) as watched:
        await watched.until(f"process {stranger} is not the worker")
        pid = supervisor.start()
        await watched.until(f"process {pid} is watched")
        assert watched.said.count("start") == 1


async def test_another_source_is_taken_at_once(supervisor: Supervisor) -> None:
    pid = supervisor.start()
    async with watching(None, None) as watched:
        assert watched.process.state_text == ""
        watched.process.set_source(ProcessSource(pid))
        await watched.until(f"process {pid} is watched")
        watched.process.set_source(ProcessSource())
        with trio.fail_after(LIVENESS_LIMIT):
            while watched.process.state_text:
                await trio.sleep(0.01)


async def test_status_events_and_the_drain_follow_the_process(supervisor: Supervisor) -> None:
    first = supervisor.start()
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        agent = await Agent.start(
            nursery, "w1", worker, "--worker-pid-file", str(supervisor.path), "--drain-time", "1000s"
        )
        await agent.logged("process", text=f"process {first} is watched")
        supervisor.kill()
        await agent.logged("worker", why="its process has ended")
        second = supervisor.start()
        await agent.logged("process", text=f"process {second} is watched")
        assert (await agent.ask("/v1/status"))["worker_process"] == f"process {second} is watched"
        events = (await agent.ask("/v1/events"))["events"]
        assert [event["text"].split()[1] for event in events if " is watched" in event["text"]] == [
            str(first),
            str(second),
        ]
        agent.signal(signal.SIGTERM)
        await agent.logged("draining")
        assert agent.process.returncode is None, "the first one's end is no reason to hurry"
        worker.status = 500
        os.kill(second, signal.SIGKILL)
        assert await agent.ended() == 0
        nursery.cancel_scope.cancel()
