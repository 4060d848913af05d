"""What a sidecar remembers across restarts: its generation, addresses to ask, and the pool's policies.

Of members it is an address book, and no claims: those would be old. A policy cannot be too old, the last writer's word
holds whenever it is heard, so a pool that is stopped as a whole comes back with the shares it had.

A file that cannot be read costs a warning and the memory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from rumormill.membership.record import COUNTER_LIMIT, Address, MonotonicCounter
from rumormill.sidecar.file_writer import FileWriter, replace_file

MAX_BYTES = 1 << 20
QUIET_SECONDS = 1.0
"""Between two writings of the file."""
MAX_ADDRESSES = 256
"""Enough to find any pool again."""


Policies = list[tuple[bytes, bytes]]
"""Encoded policies with their signatures."""
Content = tuple[int, list[Address], Policies]
"""Generation, addresses, policies."""


class SavedState(msgspec.Struct, frozen=True):
    """The file's content, as JSON."""

    name: str
    cluster: str
    generation: MonotonicCounter
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
            snapshot = msgspec.json.decode(file.read(MAX_BYTES), type=SavedState)
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
        min(snapshot.generation, COUNTER_LIMIT - 2), tuple(addresses[:MAX_ADDRESSES]), tuple(snapshot.policies)
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
    snapshot = SavedState(name, cluster, generation, list(addresses)[:MAX_ADDRESSES], policies=list(policies))
    replace_file(path, msgspec.json.encode(snapshot) + b"\n")


def snapshot_writer(
    path: Path | None,
    name: str,
    cluster: str,
    read: Callable[[], Content],
    remembered: Sequence[Address],
    warn: Callable[[str], None],
    quiet: float = QUIET_SECONDS,
) -> FileWriter[Content]:
    """Keeps the file as new as a second ago.

    ``remembered`` stands until other addresses are known: a pool that is gone for a moment must not empty the book.
    """
    book = list(remembered)

    def content() -> Content:
        nonlocal book
        generation, addresses, policies = read()
        book = addresses or book
        return generation, book, policies

    def write(path: Path, content: Content) -> None:
        write_snapshot(path, name, cluster, *content)

    return FileWriter(path, content, write, warn, quiet=quiet)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
