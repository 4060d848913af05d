"""Real agents for tests: processes on free ports whose log is read as it comes, and workers in the test's own process.

    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker)
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip)
        await w2.until(names("w1", "w2"))

Nothing waits by sleeping: a log line, a blocking query, or a process's end is awaited, under one time-out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import trio
from limits import LIVENESS_LIMIT

from rumormill.discovery.schema.workers import WorkersAnswer

COMMAND = (sys.executable, "-c", "from rumormill.cli.main import main; main()")
Predicate = Callable[[WorkersAnswer], bool]


class Worker:
    """A worker's HTTP server: answers with ``status``, or not at all while that is 0."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.paths: list[str] = []
        self.url = ""

    @classmethod
    async def start(cls, nursery: trio.Nursery) -> Worker:
        worker = cls()
        listeners = await nursery.start(partial(trio.serve_tcp, worker._serve, 0, host="127.0.0.1"))
        worker.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        return worker

    async def _serve(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (data := await stream.receive_some(4096)):
            request += data
        if not request:
            return
        self.asked += 1
        self.paths.append(request.split()[1].decode())
        if self.status == 0:
            await trio.sleep_forever()
        await stream.send_all(b"HTTP/1.1 %d Word\r\nContent-Length: 2\r\n\r\nok" % self.status)


class Agent:
    """One ``rumormill agent`` process."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []
        """What came on stderr that is not the log."""
        self.gossip = self.http = ""
        self._more = trio.Event()

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, name: str, worker: Worker | str, *flags: str, before: Sequence[str] = ()
    ) -> Agent:
        """Start it, and wait until it serves. A flag given overrides these defaults (the last one counts); `before`
        is a command that runs the agent's."""
        agent = cls(name, await run_agent(name, worker, *flags, before=before))
        nursery.start_soon(agent._read)
        agent.gossip = (await agent.logged("bound"))["gossip"]
        serving = (await agent.logged("serving"))["http"]
        agent.http = serving if serving.startswith("unix:") else f"http://{serving}"
        return agent

    async def _read(self) -> None:
        assert self.process.stderr is not None
        try:
            rest = b""
            async for data in self.process.stderr:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
        finally:
            if self.process.returncode is None:
                self.process.kill()
            with trio.CancelScope(shield=True):
                await self.process.wait()
            self._more.set()

    def _take(self, line: bytes) -> None:
        try:
            self.lines.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            self.other.append(line.decode())
        self._more.set()
        self._more = trio.Event()

    async def logged(self, event: str, after: int = 0, **words: object) -> dict[str, Any]:
        """The first line about the event that has these words, now or as soon as it comes."""
        with trio.fail_after(LIVENESS_LIMIT):
            while True:
                for line in self.lines[after:]:
                    if line["event"] == event and words.items() <= line.items():
                        return line
                assert self.process.returncode is None, f"{self.name} has ended: {self.lines[-3:]} {self.other}"
                await self._more.wait()

    async def workers(self, service: str = "") -> WorkersAnswer:
        return await self.until(lambda _: True, service)

    async def until(self, holds: Predicate, service: str = "") -> WorkersAnswer:
        """Ask for the workers, blocking until they change, until the predicate holds."""
        params = {"service": service, "wait": "30s"} if service else {"wait": "30s"}
        async with httpx2.AsyncClient(base_url=self.http, timeout=LIVENESS_LIMIT, trust_env=False) as client:
            with trio.fail_after(LIVENESS_LIMIT):
                while True:
                    response = await client.get("/v1/workers", params=params)
                    if response.status_code == 503:  # starting
                        continue
                    answer = msgspec.json.decode(response.content, type=WorkersAnswer)
                    if holds(answer):
                        return answer
                    params |= {"index": str(answer.index), "process": answer.process}

    async def ask(self, path: str, method: str = "GET") -> Any:
        """The JSON at a path."""
        async with httpx2.AsyncClient(base_url=self.http, timeout=LIVENESS_LIMIT, trust_env=False) as client:
            return (await client.request(method, path)).json()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        with trio.fail_after(LIVENESS_LIMIT):
            return await self.process.wait()


async def unexcused_doubts(agents: Sequence[Agent]) -> list[str]:
    """Suspicions and evictions of members that ran all the time. A member that a busy machine held up for a heartbeat
    period says so itself, by the event `paused`: others may doubt such a member."""
    events = [event for agent in agents for event in (await agent.ask("/v1/events"))["events"]]
    paused = {event["member"] for event in events if event["kind"] == "paused"}
    doubts = [event for event in events if event["kind"] in ("suspected", "evicted")]
    return [event["text"] for event in doubts if event["member"] not in paused]


async def run_agent(name: str, worker: Worker | str, *flags: str, before: Sequence[str] = ()) -> trio.Process:
    """Start an agent's process on free ports of 127.0.0.1, its stderr in a pipe."""
    url = worker if isinstance(worker, str) else worker.url
    ours = ["--name", name, "--cluster", "tests", "--service", "embed", "--worker", url]
    ours += ["--gossip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--drain-time", "100ms"]
    if "--key-file" not in flags:
        ours.append("--insecure-plaintext")
    return await trio.lowlevel.open_process(
        [*before, *COMMAND, "agent", *ours, *flags], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )


def environment(**more: str) -> dict[str, str]:
    """This process's environment without anybody's rumormill settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RUMORMILL_")} | more


async def rumormill(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    with trio.fail_after(LIVENESS_LIMIT):
        done = await trio.run_process(
            [*COMMAND, *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
            env=environment(**variables),
        )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@asynccontextmanager
async def pool(size: int, *flags: str) -> AsyncIterator[tuple[list[Agent], Worker]]:
    """Agents w1 … wN with one view, and the worker they share."""
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        first = await Agent.start(nursery, "w1", worker, *flags)
        others = [f"w{number}" for number in range(2, size + 1)]
        agents = [first, *[await Agent.start(nursery, name, worker, "--join", first.gossip, *flags) for name in others]]
        everyone = all_routable(*(agent.name for agent in agents))
        for agent in agents:
            await agent.until(everyone)
        yield agents, worker
        nursery.cancel_scope.cancel()


def all_routable(*names: str) -> Predicate:
    """These and no others are alive and take work."""

    def holds(answer: WorkersAnswer) -> bool:
        ready = [w.name for w in answer.workers if w.liveness == "alive" and w.routable]
        return sorted(ready) == sorted(names) and len(answer.workers) == len(names)

    return holds


def has(name: str, **words: object) -> Predicate:
    """The worker is there, and these of its fields are so."""

    def holds(answer: WorkersAnswer) -> bool:
        return any(
            w.name == name and all(getattr(w, key) == value for key, value in words.items()) for w in answer.workers
        )

    return holds


def gone(name: str) -> Predicate:
    """Nobody of that name is left among the workers."""
    return lambda answer: all(worker.name != name for worker in answer.workers)
