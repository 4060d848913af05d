"""``rumormill run``: a worker and its sidecar live and end together as told, and nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from agents import COMMAND, Agent, all_routable, environment, gone, has, rumormill
from full_pipes import full_pipe
from limits import LIVENESS_LIMIT

from bench.ports import reserved_port

WORKER = """
import http.server, os, signal, subprocess, sys, threading, time
port, *traits = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if self.path.startswith("/exit/"):
            os._exit(int(self.path[6:]))
    def log_message(self, *words):
        pass
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # one write: print may make several, mixed with others'
if "stubborn" in traits:
    signal.signal(signal.SIGTERM, lambda *_: say("heard SIGTERM"))
if "polite" in traits:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
signal.signal(signal.SIGUSR1, lambda *_: say("heard SIGUSR1"))
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
if "engine" in traits:
    say("engine", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid)
if "daemon" in traits:
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        say("daemon", os.getpid())
        time.sleep(1000)
if "echo" in traits:
    threading.Thread(target=lambda: say("read", sys.stdin.read())).start()
say("ready")
server.serve_forever()
"""


class Supervised(Agent):
    """One ``rumormill run`` process; its log holds the lines of the supervisor and of the sidecar."""

    url = ""
    said = ""
    """What the worker has printed."""

    async def _hear(self) -> None:
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            self.said += data.decode()
            self._more.set()
            self._more = trio.Event()

    async def says(self, words: str) -> str:
        """The rest of the worker's first line that begins with these words."""
        with trio.fail_after(LIVENESS_LIMIT):
            while True:
                for line in self.said.splitlines(keepends=True):
                    if line.startswith(words) and line.endswith("\n"):
                        return line[len(words) :].strip()
                await self._more.wait()

    async def worker_pid(self, life: int = 1) -> int:
        """The worker's process id in this one of its lives."""
        with trio.fail_after(LIVENESS_LIMIT):
            while len(starts := [line["pid"] for line in self.lines if line["event"] == "worker started"]) < life:
                await self._more.wait()
        return int(starts[life - 1])


async def supervised(
    nursery: trio.Nursery,
    traits: str = "",
    *flags: str,
    name: str = "w1",
    before: Sequence[str] = (),
    stdin: int = subprocess.DEVNULL,
) -> Supervised:
    """Start a worker with these traits and its sidecar, and wait until the sidecar serves."""
    port = reserved_port()
    ours = ["--name", name, "--cluster", "tests", "--service", "embed", "--worker", f"http://127.0.0.1:{port}"]
    ours += ["--gossip", "127.0.0.1:0", "--http", "127.0.0.1:0", "--drain-time", "100ms", "--insecure-plaintext"]
    command = [*before, *COMMAND, "run", *ours, *flags, "--", sys.executable, "-c", WORKER, str(port), *traits.split()]
    process = await trio.lowlevel.open_process(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    run = Supervised(name, process)
    run.url = f"http://127.0.0.1:{port}"
    nursery.start_soon(run._read)
    nursery.start_soon(run._hear)
    run.gossip = (await run.logged("bound"))["gossip"]
    run.http = f"http://{(await run.logged('serving'))['http']}"
    return run


async def ended(pid: int) -> None:
    """Wait until the process is gone."""
    await until(lambda: not alive(pid))


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(LIVENESS_LIMIT):
        while not holds():
            await trio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def sidecar_pid(run: Supervised) -> int:
    """The child that runs the agent's verb."""
    for pid in Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split():
        if b"agent" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError("there is no sidecar")


def order(run: Supervised, *events: str) -> list[int]:
    """Where in the log each of these events comes first."""
    names = [line["event"] for line in run.lines]
    return [names.index(event) for event in events]


async def test_sigterm_drains_first_and_the_workers_exit_code_is_passed_through() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "polite")
        await run.until(all_routable("w1"))
        run.signal(signal.SIGTERM)
        assert await run.ended() == 7
        await until(lambda: any(line["event"] == "worker ended" for line in run.lines))
        assert order(run, "draining", "left", "worker ended") == sorted(order(run, "draining", "left", "worker ended"))


async def test_a_crash_is_told_at_once_and_the_worker_started_again() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "", "--restart", "on-failure")
        await run.until(all_routable("w1"))
        sidecar, first = sidecar_pid(run), await run.worker_pid()
        os.kill(first, signal.SIGKILL)
        await run.logged("worker", why="its process has ended")
        assert (await run.logged("worker ended"))["exit_code"] == 137
        second = await run.worker_pid(2)
        await run.logged("process", text=f"process {second} is watched")
        await run.until(all_routable("w1"))
        assert sidecar_pid(run) == sidecar
        with suppress(OSError):
            await ask_worker(run, "/exit/0")
        assert await run.ended() == 0, "no failure, so no restart"


async def ask_worker(run: Supervised, path: str) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", int(run.url.rpartition(":")[2]))
    await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(4096):
            pass
    await stream.aclose()


async def test_without_restart_the_sidecar_leaves_with_its_worker() -> None:
    async with trio.open_nursery() as nursery:
        other = await supervised(nursery, "", name="w2")
        run = await supervised(nursery, "", "--join", other.gossip)
        await other.until(all_routable("w1", "w2"))
        await ask_worker(run, "/exit/3")
        assert await run.ended() == 3
        await other.until(gone("w1"))
        assert "w1 left" in (await other.logged("left", who="w1"))["text"]
        nursery.cancel_scope.cancel()


async def test_the_sidecar_can_outlive_its_worker() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "", "--keep-sidecar")
        await run.until(all_routable("w1"))
        await ask_worker(run, "/exit/3")
        await run.until(has("w1", readiness="critical"))
        run.signal(signal.SIGTERM)
        assert await run.ended() == 3


async def test_a_sidecar_that_crashes_is_started_again_beside_the_same_worker() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery)
        worker = await run.worker_pid()
        before = len(run.lines)
        os.kill(sidecar_pid(run), signal.SIGKILL)
        assert (await run.logged("sidecar ended"))["exit_code"] == 137
        run.http = f"http://{(await run.logged('serving', after=before))['http']}"
        await run.until(all_routable("w1"))
        assert alive(worker)
        run.signal(signal.SIGINT)
        assert await run.ended() == 128 + signal.SIGINT, "the worker got the same signal"


async def test_a_sidecar_that_is_told_to_leave_takes_its_worker_with_it() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "polite")
        await run.ask("/v1/leave", "POST")
        assert await run.ended() == 7


async def test_a_sidecar_that_cannot_run_stops_the_worker() -> None:
    async with trio.open_nursery() as nursery:
        first = await supervised(nursery)
        second = await supervised(nursery, "polite", "--join", first.gossip)
        assert await second.ended() == 6, "the name is taken"
        await ended(await second.worker_pid())
        nursery.cancel_scope.cancel()


async def test_nothing_stays_after_kill_9() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "engine stubborn")
        processes = [await run.worker_pid(), int(await run.says("engine ")), sidecar_pid(run)]
        assert all(map(alive, processes))
        run.process.kill()
        for pid in processes:
            await ended(pid)


async def test_what_is_left_of_a_worker_is_killed_before_the_next_one_starts() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "engine", "--restart", "always")
        engine = int(await run.says("engine "))
        await ask_worker(run, "/exit/0")
        await run.worker_pid(2)
        assert not alive(engine)
        run.signal(signal.SIGTERM)
        assert await run.ended() == 143


async def test_a_second_signal_kills_at_once() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "stubborn", "--stop-time", "1000s")
        run.signal(signal.SIGTERM)
        await run.says("heard SIGTERM")
        run.signal(signal.SIGTERM)
        assert await run.ended() == 143
        await ended(await run.worker_pid())


async def test_a_worker_that_does_not_end_in_time_is_killed() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "stubborn", "--stop-time", "200ms")
        run.signal(signal.SIGTERM)
        assert await run.ended() == 137
        assert "heard SIGTERM" in run.said


async def test_orphans_are_reaped_and_the_last_are_killed() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "daemon")
        daemon = int(await run.says("daemon "))
        await until(lambda: parent(daemon) == run.process.pid)
        run.signal(signal.SIGTERM)
        assert await run.ended() == 143
        await ended(daemon)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_signals_reach_whom_they_are_for() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery)
        await run.says("ready")
        run.signal(signal.SIGUSR1)
        await run.says("heard SIGUSR1")
        run.signal(signal.SIGHUP)
        await run.logged("reload")
        assert alive(await run.worker_pid())
        run.signal(signal.SIGTERM)
        assert await run.ended() == 143


async def test_the_worker_has_the_standard_streams() -> None:
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "echo", stdin=subprocess.PIPE)
        assert run.process.stdin is not None
        await run.process.stdin.send_all(b"from outside")
        await run.process.stdin.aclose()
        assert await run.says("read ") == "from outside"
        run.signal(signal.SIGTERM)
        assert await run.ended() == 143


def in_a_container() -> list[str]:
    """A prefix that makes the command process 1 of a namespace; empty if this machine allows none."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        return []
    return prefix


async def test_as_process_1_it_reaps_and_obeys() -> None:
    prefix = in_a_container()
    if not prefix:
        pytest.skip("no process namespace can be made here")
    async with trio.open_nursery() as nursery:
        run = await supervised(nursery, "daemon polite", before=prefix)
        await run.says("daemon ")
        first = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
        assert len(first) == 1
        os.kill(int(first[0]), signal.SIGTERM)
        assert await run.ended() == 7


async def test_output_that_nobody_reads_harms_neither_the_sidecar_nor_the_stop(tmp_path: Path) -> None:
    """The log's pipe is full before anything is written to it."""
    with full_pipe() as (_, writing):
        port, http = reserved_port(), tmp_path / "w1.sock"
        flags = ["--name", "w1", "--cluster", "tests", "--service", "embed", "--worker", f"http://127.0.0.1:{port}"]
        flags += ["--gossip", "127.0.0.1:0", "--http", f"unix:{http}", "--drain-time", "0s", "--insecure-plaintext"]
        process = await trio.lowlevel.open_process(
            [*COMMAND, "run", *flags, "--", sys.executable, "-c", WORKER, str(port), "polite"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writing,
            env=environment(),
        )
        try:
            await until(http.exists)
            status: dict[str, Any] = {}
            while status.get("readiness") != "passing":
                done = await rumormill("status", "--http", f"unix:{http}", "-o", "json")
                status = json.loads(done.stdout or "{}")
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(LIVENESS_LIMIT):
                assert await process.wait() == 7
        finally:
            if process.returncode is None:
                process.kill()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--worker-pid", "1", "--", "true"), 2, "it knows its process"),
        (("--restart", "sometimes", "--", "true"), 2, "'sometimes' is not one of"),
        (("--stop-time", "3", "--", "true"), 2, "write it with a unit"),
        ((), 2, "Missing argument 'COMMAND"),
        (("--", "/no/such/program"), 127, "'/no/such/program' was not found"),
    ],
)
async def test_mistakes_are_told_before_anything_starts(flags: Sequence[str], code: int, words: str) -> None:
    ours = (
        "--name",
        "w1",
        "--cluster",
        "c",
        "--service",
        "s",
        "--worker",
        "http://127.0.0.1:9",
        "--insecure-plaintext",
    )
    done = await rumormill("run", *ours, *flags)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
