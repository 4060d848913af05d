"""An agent is killed while it writes its snapshot or its key file. Both always load. RUMORMILL_KILLS=200 does it more
often."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import trio
from agents import Agent, Worker, rumormill, run_agent
from limits import LIVENESS_LIMIT

from rumormill.gossip.security.keyring import KeyRing
from rumormill.sidecar.key_file import read_key_file
from rumormill.sidecar.snapshot import read_snapshot_untrusted

KILLS = int(os.environ.get("RUMORMILL_KILLS", "6"))
A, B = b"a" * 32, b"b" * 32


def key_file(path: Path, *keys: bytes) -> Path:
    path.write_text(KeyRing(keys).to_text())
    path.chmod(0o600)
    return path


def is_writing(file: Path) -> bool:
    """Whether the new content of the file lies beside it, not yet in its place."""
    return any(file.parent.glob(f"{file.name}.*.new"))


async def test_whatever_moment_an_agent_is_killed_at_its_files_load(tmp_path: Path) -> None:
    rng, caught = random.Random(1), 0
    with trio.fail_after(LIVENESS_LIMIT * KILLS):
        async with trio.open_nursery() as nursery:
            worker = await Worker.start(nursery)
            first = key_file(tmp_path / "w1.key", A)
            w1 = await Agent.start(nursery, "w1", worker, "--key-file", str(first))
            new = key_file(tmp_path / "new.key", B)
            done = await rumormill("keys", "install", str(new), "--http", w1.http, "--key-file", str(first))
            assert done.returncode == 0, done.stderr
            for kill in range(KILLS):
                keys = key_file(tmp_path / "w2.key", A)  # it hears of the second key, and writes the file anew
                snapshot = tmp_path / "w2.snapshot"
                watched = (keys, snapshot)[kill % 2]
                caught += await killed_while_it_writes(w1, worker, keys, snapshot, watched, rng.uniform(0, 0.002))
                assert read_key_file(keys).ring.keys in ((A,), (A, B))
                remembered = read_snapshot_untrusted(snapshot, "w2", "tests")
                assert remembered.generation <= kill + 1
            nursery.cancel_scope.cancel()
    print(f"{caught} of {KILLS} were killed in the middle of a write")


async def killed_while_it_writes(
    w1: Agent, worker: Worker, keys: Path, snapshot: Path, watched: Path, later: float
) -> bool:
    """Start a second agent, and kill it a moment after it begins to write the watched file. Whether it was writing."""
    flags = ("--key-file", str(keys), "--snapshot", str(snapshot), "--join", w1.gossip)
    before = stamp(watched)
    process = await run_agent("w2", worker, *flags)
    assert process.stderr is not None
    try:
        while not is_writing(watched) and stamp(watched) == before:
            assert process.poll() is None, await process.stderr.receive_some()
            await trio.sleep(0)
        await trio.sleep(later)
        return is_writing(watched)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await process.stderr.aclose()


def stamp(file: Path) -> int:
    return file.stat().st_ino if file.exists() else 0


async def test_what_a_kill_left_beside_a_file_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left, other, young = (tmp_path / f"w1.snapshot.{part}.new" for part in ("0123abcd", "notes", "89abcdef"))
    for file in (left, other, young):
        file.write_text("half of a")
    for file in (left, other):
        os.utime(file, (0, 0))
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(nursery)
        w1 = await Agent.start(nursery, "w1", worker, "--snapshot", str(tmp_path / "w1.snapshot"))
        w1.signal(signal.SIGTERM)
        assert await w1.ended() == 0
        nursery.cancel_scope.cancel()
    assert not left.exists()
    assert other.exists()
    assert young.exists(), "another agent may be writing it"
