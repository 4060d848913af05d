"""The record of a real agent, saved by the verb, plays again by the verb."""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from pathlib import Path

import trio
from agents import COMMAND, Agent, Worker
from key_files import key_file
from limits import LIVENESS_LIMIT


async def run(*words: str) -> subprocess.CompletedProcess[str]:
    call = partial(
        subprocess.run, [*COMMAND, *words], capture_output=True, text=True, timeout=LIVENESS_LIMIT, check=False
    )
    return await trio.to_thread.run_sync(call)


async def test_the_records_of_two_survivors_tell_why_the_third_was_evicted(tmp_path: Path) -> None:
    key = key_file(tmp_path / "key", b"the key of this test, 32 bytes..")
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        flags = ("--key-file", str(key))
        w1 = await Agent.start(nursery, "w1", worker, *flags)
        w2 = await Agent.start(nursery, "w2", worker, "--join", w1.gossip, *flags)
        w3 = await Agent.start(nursery, "w3", worker, "--join", w1.gossip, *flags)
        for agent in (w1, w2):
            await agent.until(lambda answer: {worker.name for worker in answer.workers} == {"w1", "w2", "w3"})
        w3.process.kill()
        files = []
        for agent in (w1, w2):
            await agent.logged("evicted", who="w3")
            file = tmp_path / f"{agent.name}.rumor"
            done = await run("record", "dump", "--http", agent.http, "--out", str(file))
            assert done.returncode == 0, done.stderr
            assert b"the key of this test" not in file.read_bytes()
            files.append(str(file))
        nursery.cancel_scope.cancel()
    story = await run("replay", *files, "--explain", "w3")
    assert story.returncode == 0, story.stdout + story.stderr
    for name in ("w1", "w2"):
        assert re.search(rf"{name} had last heard w3 \S+ s before: w3 evicted: 3 misses seen by", story.stdout)
    played = json.loads((await run("replay", *files, "-o", "json")).stdout)
    assert {segment["member"] for segment in played["segments"]} == {"w1", "w2"}
    assert all(segment["same"] and segment["sent"] for segment in played["segments"])
    assert played["violations"] == []


async def test_the_record_of_a_killed_agent_is_kept_at_the_next_start_and_plays(tmp_path: Path) -> None:
    flags = ("--insecure-plaintext", "--record-dir", str(tmp_path))
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, *flags)
        live = tmp_path / "w1.live.rumor"
        with trio.fail_after(LIVENESS_LIMIT):
            while not live.exists():
                await trio.sleep(0.05)
            size = live.stat().st_size
            while live.stat().st_size == size:
                await trio.sleep(0.05)
        w1.process.kill()
        await w1.process.wait()
        whole = live.read_bytes()
        live.write_bytes(whole[:-1])  # as a kill in the middle of a write leaves it
        again = await Agent.start(nursery, "w1", worker, *flags)
        with trio.fail_after(LIVENESS_LIMIT):
            while not (kept := list(tmp_path.glob("w1-*-killed.rumor"))):
                await trio.sleep(0.05)
        again.process.terminate()
        await again.process.wait()
        assert not live.exists(), "an agent that ends by itself needs no record"
        nursery.cancel_scope.cancel()
    assert kept[0].read_bytes() == whole[:-1]
    story = await run("replay", str(kept[0]))
    assert story.returncode == 0, story.stdout + story.stderr
    assert "bytes are the beginning of an object; the rest is played" in story.stderr
    assert ": the same, trace " in story.stdout


async def test_what_cannot_be_played_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    refused = await run("replay", str(tmp_path / "text"))
    assert refused.returncode != 0
    assert "rumormill record dump" in refused.stderr
    unknown = await run("replay", str(tmp_path / "text"), "--what-if", "luck=1")
    assert "NAME is one of grace, misses" in unknown.stderr


async def test_a_sidecar_without_a_recorder_says_how_to_get_one(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--insecure-plaintext", "--record", "0")
        refused = await run("record", "dump", "--http", w1.http, "--out", str(tmp_path / "none"))
        assert refused.returncode != 0
        assert "start it with --record 8" in refused.stderr
        nursery.cancel_scope.cancel()
