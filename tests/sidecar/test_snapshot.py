"""The address book on disk: it is written whole or not at all, and read only if it is valid."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rumormill.membership.record import COUNTER_LIMIT
from rumormill.sidecar.file_writer import FileWriter
from rumormill.sidecar.snapshot import (
    MAX_ADDRESSES,
    Content,
    RestoredState,
    SnapshotIgnored,
    read_snapshot_untrusted,
    snapshot_writer,
    write_snapshot,
)

HERE = ("127.0.0.1", 7946)
THERE = ("::1", 7947)


def test_a_written_snapshot_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_snapshot(path, "w1", "prod", 7, [HERE, THERE])
    assert read_snapshot_untrusted(path, "w1", "prod") == RestoredState(7, (HERE, THERE))
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


def test_no_file_is_no_memory(tmp_path: Path) -> None:
    assert read_snapshot_untrusted(tmp_path / "none", "w1", "prod") == RestoredState(0, ())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is damaged"),
        (b"{}", "is damaged"),
        (b"\xff", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"version":2,"name":"w1","cluster":"prod","generation":1,"addresses":[]}', "is damaged"),
        (b'{"version":1,"name":"w1","cluster":"prod","generation":-1,"addresses":[]}', "is damaged"),
        (b'{"version":1,"name":"w1","cluster":"prod","generation":1,"addresses":[["h",0]]}', "is damaged"),
        (
            b'{"version":1,"name":"w2","cluster":"prod","generation":1,"addresses":[]}',
            "belongs to member 'w2' of cluster 'prod'",
        ),
        (
            b'{"version":1,"name":"w1","cluster":"lab","generation":1,"addresses":[]}',
            "belongs to member 'w1' of cluster 'lab'",
        ),
    ],
)
def test_an_unusable_snapshot_is_ignored_with_a_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(SnapshotIgnored, match=why):
        read_snapshot_untrusted(path, "w1", "prod")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(SnapshotIgnored, match="cannot be read: Is a directory"):
        read_snapshot_untrusted(tmp_path, "w1", "prod")


def test_bounds(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_snapshot(path, "w1", "prod", COUNTER_LIMIT - 1, [("10.0.0.1", port) for port in range(1, 1000)])
    remembered = read_snapshot_untrusted(path, "w1", "prod")
    assert remembered.generation + 1 < COUNTER_LIMIT
    assert len(remembered.addresses) == MAX_ADDRESSES
    saved = json.loads(path.read_text())
    saved["addresses"] = [["evil.example", 1], ["10.0.0.1", 2]]
    path.write_text(json.dumps(saved))
    assert read_snapshot_untrusted(path, "w1", "prod").addresses == (("10.0.0.1", 2),)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(SnapshotIgnored):
        read_snapshot_untrusted(path, "w1", "prod")


async def test_the_writer_writes_changes_and_warns_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    folder = tmp_path / "later"
    path = folder / "s.json"
    held: Content = (1, [], [])
    warnings: list[str] = []
    keeper = snapshot_writer(path, "w1", "prod", lambda: held, [THERE], warnings.append)

    async def until(holds: Callable[[], bool]) -> None:
        """Under a virtual clock that jumps, because a thread does the writing."""
        with trio.fail_after(1e6):
            while not holds():
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.notify_changed()
        await until(lambda: bool(keeper.trouble))
        folder.mkdir()
        await until(lambda: not keeper.trouble)
        assert read_snapshot_untrusted(path, "w1", "prod") == RestoredState(1, (THERE,))
        held = (1, [HERE], [(b"a policy", b"")])
        keeper.notify_changed()
        later = RestoredState(1, (HERE,), ((b"a policy", b""),))
        await until(lambda: read_snapshot_untrusted(path, "w1", "prod") == later)
        nursery.cancel_scope.cancel()
    assert warnings == [f"{path} cannot be written: No such file or directory"]
    held = (1, [], [])
    await keeper.write_final(timeout=math.inf)
    assert read_snapshot_untrusted(path, "w1", "prod").addresses == (HERE,), "an empty moment empties no book"
    held = (2, [THERE], [])
    await keeper.write_final(timeout=math.inf)
    assert read_snapshot_untrusted(path, "w1", "prod") == RestoredState(2, (THERE,))
    assert list(folder.iterdir()) == [path]


async def test_without_a_path_nothing_is_kept() -> None:
    keeper = snapshot_writer(None, "w1", "prod", lambda: (1, [HERE], []), (), lambda _: None)
    keeper.notify_changed()
    await keeper.run()
    await keeper.write_final(timeout=math.inf)


async def test_a_disk_that_hangs_holds_neither_the_loop_nor_the_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    answers = threading.Event()
    warnings: list[str] = []

    def hang(path: Path, content: str) -> None:
        answers.wait()

    keeper = FileWriter(tmp_path / "f", lambda: "content", hang, warnings.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.notify_changed()
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    await keeper.write_final()
    answers.set()
    assert warnings == [f"{tmp_path}/f cannot be written: the disk does not answer"]
