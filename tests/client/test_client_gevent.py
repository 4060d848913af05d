"""Pools under gevent's monkey patching, in separate programs, because it changes a whole process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
from limits import LIVENESS_LIMIT
from stage import Exchange, StageInThread, die, stage_in_thread

PATCHED = """
import sys, warnings
from gevent import monkey
monkey.patch_all()
import gevent, httpx2, os
from rumormill.client import SyncPool

urls = sys.argv[1].split()

def client_of(pool):
    return httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=None)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


@pytest.fixture
def scene() -> Iterator[StageInThread]:
    with stage_in_thread() as scene:
        yield scene


def run(scene: StageInThread, script: str, prelude: str = PATCHED) -> tuple[list[str], str]:
    """The lines that a program prints, and its errors."""
    command = [sys.executable, "-c", prelude + script, " ".join(scene.scene.urls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIVENESS_LIMIT)
    return done.stdout.splitlines(), done.stderr


def test_greenlets_wait_side_by_side_and_share_several_pools(scene):
    arrived = trio.Event()
    waiting = []

    async def answer_when_all_are_there(exchange: Exchange) -> None:
        waiting.append(exchange)
        if len(waiting) == 20:
            arrived.set()
        await arrived.wait()
        await exchange.answer()

    for worker in scene.scene.workers.values():
        worker.behaviour = answer_when_all_are_there
    lines, operator_warnings = run(
        scene,
        """
with SyncPool(urls, "embed", hedge=False) as one, SyncPool(urls, "embed", hedge=False) as two:
    clients = [client_of(one), client_of(two)]
    asking = [gevent.spawn(clients[n % 2].get, "/") for n in range(20)]
    gevent.joinall(asking, raise_error=True)
    say(sum(job.value.status_code == 200 for job in asking))
with one, client_of(one) as http:
    say(http.get("/").status_code)
""",
    )
    assert (lines, operator_warnings) == (["20", "200"], "")


def test_deaths_streams_long_uploads_and_snapshots_are_as_in_threads(scene, tmp_path):
    async def in_parts(exchange: Exchange) -> None:
        if exchange.seen.target != "/stream":
            return await exchange.answer(b"%d" % len(exchange.seen.body))
        await exchange.begin("text/event-stream")
        await exchange.part(b"data: 1\n\n")
        await exchange.part(b"data: 2\n\n")
        return await exchange.end()

    first, second, third = scene.scene.owners("user-1")
    first.behaviour, second.behaviour, third.behaviour = die, in_parts, in_parts
    script = f"""
with SyncPool(urls, "embed", hedge=False, snapshot={str(tmp_path / "list.json")!r}) as pool, client_of(pool) as http:
    say(http.get("/", headers={{"Rumormill-Key": "user-1"}}).extensions["rumormill_worker"].name)
    with http.stream("GET", "/stream", headers={{"Rumormill-Key": "user-1"}}) as response:
        say(len(b"".join(response.iter_bytes())))
    say(http.post("/", content=iter([b"x" * 2**20] * 9), headers={{"Rumormill-Key": "user-1"}}).text)
    while not os.path.exists({str(tmp_path / "list.json")!r}):
        gevent.sleep(0.01)
"""
    lines, operator_warnings = run(scene, script)
    assert (lines, operator_warnings) == ([second.name, "18", str(9 * 2**20)], "")


def test_a_greenlet_that_is_killed_ends_its_request(scene):
    async def hang(exchange: Exchange) -> None:
        await exchange.hang()

    for worker in scene.scene.workers.values():
        worker.behaviour = hang
    script = """
with SyncPool(urls, "embed", hedge=False) as pool, client_of(pool) as http:
    try:
        with gevent.Timeout(0.1):
            http.get("/", headers={"Rumormill-Key": "user-1"})
    except gevent.Timeout:
        say("given up")
"""
    lines, operator_warnings = run(scene, script)
    scene.do(scene.scene.owners("user-1")[0].hung_up.wait)
    assert (lines, operator_warnings) == (["given up"], "")


def test_a_fork_copies_greenlets_but_no_pool(scene):
    script = """
with SyncPool(urls, "embed", hedge=False) as pool, client_of(pool) as http:
    def ask(times):
        return " ".join(http.get("/").text for _ in range(times))

    ask(3)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            say(ask(20))
            os._exit(0)
        children.append(child)
    ask(20)
    for child in children:
        os.waitpid(child, 0)
    say(ask(20))
"""
    lines, operator_warnings = run(scene, script)
    assert operator_warnings == ""
    assert len(set(lines)) == 4
    assert all(len(line.split()) == 20 for line in lines)


@pytest.mark.parametrize(
    ("prelude", "hint"),
    [
        (
            "from rumormill.client import SyncPool\nfrom gevent import monkey\nmonkey.patch_all()\n",
            "call gevent.monkey.patch_all() before all other imports",
        ),
        (
            "from gevent import monkey\nmonkey.patch_all(thread=False)\nfrom rumormill.client import SyncPool\n",
            "call gevent.monkey.patch_all() without thread=False",
        ),
    ],
)
def test_patching_that_cannot_work_is_reported_at_once(scene, prelude, hint):
    script = """
import sys
try:
    SyncPool(sys.argv[1].split(), "embed")
except RuntimeError as error:
    print(error)
"""
    lines, _ = run(scene, script, prelude)
    assert len(lines) == 1
    assert hint in lines[0]
