"""What a sidecar remembers across restarts: its generation, and addresses to ask. An address book, and no claims.

The file is written whole beside its place, synced and moved there, so a crash leaves the old one. Nothing of it stops
a sidecar: a full disk or a file that cannot be read costs a warning and the memory.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import trio

from rumormill.membership.record import MAX_LIFE, Address, Life

MAX_BYTES = 1 << 20
QUIET_SECONDS = 1.0
"""Between two writings of the file."""
MAX_ADDRESSES = 256
"""Enough to find any pool again."""


class Snapshot(msgspec.Struct, frozen=True):
    """The file's content, as JSON."""

    name: str
    cluster: str
    generation: Life
    addresses: list[tuple[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]]]
    version: Literal[1] = 1


class SnapshotIgnored(Exception):
    """The file is there and cannot be used; says why. The sidecar starts without it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier life of this member left behind."""

    generation: int = 0
    """The highest generation it had; 0 for none known."""
    addresses: tuple[Address, ...] = ()


def read_snapshot_untrusted(path: Path, name: str, cluster: str) -> Remembered:
    """What the file says, nothing where there is none. Raises :class:`SnapshotIgnored` for any other trouble."""
    try:
        with path.open("rb") as file:
            snapshot = msgspec.json.decode(file.read(MAX_BYTES), type=Snapshot)
    except FileNotFoundError:
        return Remembered()
    except OSError as error:
        raise SnapshotIgnored(f"cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotIgnored(f"is damaged: {error}") from None
    if (snapshot.name, snapshot.cluster) != (name, cluster):
        raise SnapshotIgnored(f"is that of {snapshot.name!r} in {snapshot.cluster!r}")
    addresses = [(host, port) for host, port in snapshot.addresses if _is_literal(host)]
    return Remembered(min(snapshot.generation, MAX_LIFE - 2), tuple(addresses[:MAX_ADDRESSES]))


def write_snapshot(path: Path, name: str, cluster: str, generation: int, addresses: Sequence[Address]) -> None:
    """Replace the file in one step. Blocks for the disk; raises OSError, and the old file is still there then."""
    snapshot = Snapshot(name, cluster, generation, list(addresses)[:MAX_ADDRESSES])
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(snapshot) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(path.parent)


class SnapshotKeeper:
    """Keeps the file as new as a second ago, in a thread, so that a slow disk delays no heartbeat.

    ``path`` None keeps nothing. ``warn`` is told of trouble once, until a writing succeeds again.
    """

    def __init__(
        self,
        path: Path | None,
        name: str,
        cluster: str,
        read: Callable[[], tuple[int, list[Address]]],
        warn: Callable[[str], None],
    ) -> None:
        self._path = path
        self._name = name
        self._cluster = cluster
        self._read = read
        self._warn = warn
        self._written: tuple[int, list[Address]] | None = None
        self._troubled = False
        self._due = trio.Event()

    def changed(self) -> None:
        """Something worth remembering may have changed."""
        self._due.set()

    async def run(self) -> None:
        """Write whenever there is something new; returns only where nothing is kept."""
        if self._path is None:
            return
        while True:
            await self._due.wait()
            self._due = trio.Event()
            content = self._read()
            # A pool that is gone for a moment must not empty the address book.
            if content != self._written and (content[1] or self._written is None or content[0] != self._written[0]):
                await trio.to_thread.run_sync(self._write, self._path, content)
            await trio.sleep(QUIET_SECONDS)

    def write_last(self) -> None:
        """The last word before the process ends."""
        content = self._read()
        if self._path is not None and content[1] and content != self._written:
            self._write(self._path, content)

    def _write(self, path: Path, content: tuple[int, list[Address]]) -> None:
        try:
            write_snapshot(path, self._name, self._cluster, *content)
        except OSError as error:
            if not self._troubled:
                self._warn(f"{path} cannot be written: {error.strerror}")
            self._troubled = True
        else:
            self._written, self._troubled = content, False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
