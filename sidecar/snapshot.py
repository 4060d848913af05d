"""What a sidecar remembers across restarts: its generation, addresses to ask, and the pool's policies.

Of members it is an address book, and no claims: those would be old. A policy cannot be too old, the last writer's word
holds whenever it is heard, so a pool that is stopped as a whole comes back with the shares it had.

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


Policies = list[tuple[bytes, bytes]]
"""Encoded policies with their signatures."""
Content = tuple[int, list[Address], Policies]
"""Generation, addresses, policies."""


class Snapshot(msgspec.Struct, frozen=True):
    """The file's content, as JSON."""

    name: str
    cluster: str
    generation: Life
    addresses: list[tuple[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]]]
    version: Literal[1] = 1
    policies: Policies = []


class SnapshotIgnored(Exception):
    """The file is there and cannot be used; says why. The sidecar starts without it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier life of this member left behind."""

    generation: int = 0
    """The highest generation it had; 0 for none known."""
    addresses: tuple[Address, ...] = ()
    policies: tuple[tuple[bytes, bytes], ...] = ()
    """Not yet looked into: the node believes of them what it may."""


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
    return Remembered(
        min(snapshot.generation, MAX_LIFE - 2), tuple(addresses[:MAX_ADDRESSES]), tuple(snapshot.policies)
    )


def write_snapshot(
    path: Path,
    name: str,
    cluster: str,
    generation: int,
    addresses: Sequence[Address],
    policies: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Replace the file in one step. Blocks for the disk; raises OSError, and the old file is still there then."""
    snapshot = Snapshot(name, cluster, generation, list(addresses)[:MAX_ADDRESSES], policies=list(policies))
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
    """Keeps the file as new as a second ago, writing in a thread, so that a slow disk delays no heartbeat.

    ``path`` None keeps nothing. ``remembered`` stands until other addresses are known: a pool that is gone for a moment
    must not empty the book. ``warn`` is told when trouble begins. Larger ``quiet`` seconds: fewer writings, and an
    older book after a crash.
    """

    def __init__(
        self,
        path: Path | None,
        name: str,
        cluster: str,
        read: Callable[[], Content],
        remembered: Sequence[Address],
        warn: Callable[[str], None],
        quiet: float = QUIET_SECONDS,
    ) -> None:
        self._path = path
        self._name = name
        self._cluster = cluster
        self._read = read
        self._book = list(remembered)
        self._warn = warn
        self._quiet = quiet
        self._written: Content | None = None
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
            content = self._content()
            if content != self._written:
                self._note(content, await trio.to_thread.run_sync(self._write, self._path, content))
            await trio.sleep(self._quiet)

    def write_last(self) -> None:
        """The last word before the process ends."""
        content = self._content()
        if self._path is not None and content != self._written:
            self._note(content, self._write(self._path, content))

    def _content(self) -> Content:
        generation, addresses, policies = self._read()
        self._book = addresses or self._book
        return generation, self._book, policies

    def _write(self, path: Path, content: Content) -> OSError | None:
        try:
            write_snapshot(path, self._name, self._cluster, *content)
        except OSError as error:
            return error
        return None

    def _note(self, content: Content, problem: OSError | None) -> None:
        if problem is None:
            self._written = content
        elif not self._troubled:
            self._warn(f"{self._path} cannot be written: {problem.strerror}")
        self._troubled = problem is not None


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
