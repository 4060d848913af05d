"""Pools in processes that fork. The forks are real, in separate programs, because a test runner must not fork."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from limits import LIVENESS_LIMIT
from stage import Exchange, StageInThread, stage_in_thread

PROGRAM = """
import asyncio, multiprocessing, os, sys, threading
import anyio, httpx2
from rumormill.client import Pool, SyncPool

urls = sys.argv[1].split()

def client_of(pool):
    return httpx2.Client(transport=pool.transport(), base_url="http://embed", timeout=60)

def ask(http, times):
    return " ".join(http.get("/").text for _ in range(times))

def say(line):
    os.write(1, f"{line}\\n".encode())

def in_children(work, count=4):
    '''What gunicorn does: the children unwind through the blocks that the parent has entered.'''
    for _ in range(count):
        if os.fork() == 0:
            work()
            return False
    for _ in range(count):
        os.wait()
    return True
"""
SCRIPTS = {
    "made before": """
pool = SyncPool(urls, "embed", hedge=False)
http = client_of(pool)
def work():
    with pool:
        say(ask(http, 20))
in_children(work)
""",
    "opened before": """
with SyncPool(urls, "embed", hedge=False) as pool, client_of(pool) as http:
    ask(http, 3)
    if in_children(lambda: say(ask(http, 20))):
        ask(http, 3)
""",
    "opened before, of multiprocessing": """
pool = SyncPool(urls, "embed", hedge=False).open()
http = client_of(pool)
def work():
    say(ask(http, 20))
fork = multiprocessing.get_context("fork")
children = [fork.Process(target=work) for _ in range(4)]
for child in children:
    child.start()
for child in children:
    child.join()
pool.close()
""",
    "used by threads of the children at once": """
with SyncPool(urls, "embed", hedge=False) as pool, client_of(pool) as http:
    def work():
        threads = [threading.Thread(target=ask, args=(http, 3)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(ask(http, 20))
    in_children(work)
""",
    "forked within a lease and a stream": """
with SyncPool(urls, "embed", hedge=False) as pool, client_of(pool) as http:
    with http.stream("GET", "/stream") as response, pool.acquire() as worker:
        in_children(lambda: say(ask(http, 20)))
""",
}


@pytest.fixture
def scene() -> Iterator[StageInThread]:
    with stage_in_thread() as scene:
        for worker in scene.scene.workers.values():
            worker.behaviour = answer_or_stream
        yield scene


async def answer_or_stream(exchange: Exchange) -> None:
    if exchange.seen.target != "/stream":
        return await exchange.answer()
    await exchange.begin("text/event-stream")
    await exchange.part(b"data: 1\n\n")
    return await exchange.hang()


def run(scene: StageInThread, script: str) -> list[str]:
    """The lines that a program prints. It must end by itself and print no error."""
    quiet = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *quiet, "-c", PROGRAM + script, " ".join(scene.scene.urls)],
        capture_output=True,
        text=True,
        timeout=LIVENESS_LIMIT,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_each_forked_process_has_a_pool_that_works_and_chooses_for_itself(scene, script):
    lines = run(scene, script)
    assert len(lines) == 4
    for line in lines:
        assert set(line.split()) <= {"w0", "w1", "w2"}
        assert len(line.split()) == 20
    # Two of them are equal by chance once in some hundred million runs.
    assert len(set(lines)) == 4


def test_a_child_that_does_nothing_with_the_pool_leaves_its_block_at_once(scene):
    script = """
with SyncPool(urls, "embed") as pool:
    if not in_children(lambda: None):
        say("left")
        sys.exit()
"""
    assert run(scene, script) == ["left"] * 4


def test_in_a_child_the_events_of_the_parent_end_and_its_own_begin(scene):
    script = """
with SyncPool(urls, "embed") as pool:
    events = pool.events()
    def work():
        inherited = len(list(events))
        own = pool.events(timeout=0)
        say(f"{inherited} {type(own).__name__}")
    in_children(work)
"""
    assert run(scene, script) == ["0 SyncPoolEvents"] * 4


def test_an_asynchronous_pool_says_in_a_child_what_to_do_and_does_it(scene):
    script = """
async def ask():
    async with httpx2.AsyncClient(transport=pool.transport(), base_url="http://embed", timeout=60) as http:
        return (await http.get("/")).text

async def main():
    async with pool:
        await ask()
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        await asyncio.to_thread(child.join)
        await ask()

async def in_child():
    try:
        await ask()
    except RuntimeError as error:
        say(error)
    await pool.aclose()
    async with pool:
        say(len(await ask()))

def work():
    asyncio.run(in_child())

pool = Pool(urls, "embed")
asyncio.run(main())
"""
    told, answered = run(scene, script)
    assert "opened before the process forked" in told
    assert "await pool.open()" in told
    assert answered == "2"
