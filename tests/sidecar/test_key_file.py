"""A key file: its version, links to it, and a folder that cannot be written to yet."""

from __future__ import annotations

import base64
import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing
from key_files import key_file

from rumormill.gossip.security.keyring import KeyRing
from rumormill.sidecar import SettingsError
from rumormill.sidecar.key_file import KeyFile, key_file_writer, parse_key_file, read_key_file, write_key_file

A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_a_key_file_knows_its_version_until_somebody_edits_it(tmp_path: Path) -> None:
    path = key_file(tmp_path / "k", A)
    write_key_file(path, KeyFile(KeyRing((B, A)), 7))
    assert read_key_file(path) == KeyFile(KeyRing((B, A)), 7)
    write_key_file(path, KeyFile(KeyRing((C,)), 6))
    assert read_key_file(path).version == 7, "a slower neighbor that shares the file has not put an older ring back"
    text = path.read_text()
    assert parse_key_file(text.replace(encoded(A), encoded(C))) == KeyFile(KeyRing((B, C)), 0)
    for mark in ("#: ring x y", "#: ring 99999999999999999999 00", "#: ring 7", "#: ring -1 00", "#: ring"):
        assert parse_key_file(f"{mark}\n{encoded(A)}\n") == KeyFile(KeyRing((A,)), 0)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_key_file_stays_one(tmp_path: Path) -> None:
    real, link = key_file(tmp_path / "real", A), tmp_path / "link"
    link.symlink_to(real)
    write_key_file(link, KeyFile(KeyRing((B,)), 1))
    assert link.is_symlink()
    assert read_key_file(real).ring.keys == (B,)


def test_a_file_that_cannot_be_written_is_right_once_a_person_has_put_the_ring_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a Kubernetes secret. Root may write anywhere, so the write itself is made to fail."""

    def read_only(path: Path, data: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("rumormill.sidecar.key_file.replace_file", read_only)
    path, wanted = key_file(tmp_path / "k", A), KeyFile(KeyRing((A, B)), 3)
    with pytest.raises(OSError, match="Read-only"):
        write_key_file(path, wanted)
    key_file(path, B, A)
    with pytest.raises(OSError, match="Read-only"):
        write_key_file(path, wanted)  # the first key seals: their order counts
    key_file(path, A, B)
    write_key_file(path, wanted)


async def test_a_file_is_tried_again_until_it_can_be_written(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    folder = tmp_path / "later"
    wanted, warnings = KeyFile(KeyRing((A,))), []
    keeper = key_file_writer(folder / "k", lambda: wanted, warnings.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        wanted = KeyFile(KeyRing((A, B)), 1)
        keeper.notify_changed()
        with trio.fail_after(1e6):
            while len(warnings) < 2:
                await trio.sleep(1)
            assert keeper.trouble
            folder.mkdir()
            while keeper.trouble:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert read_key_file(folder / "k") == wanted
    with pytest.raises(SettingsError):
        read_key_file(tmp_path / "none")
