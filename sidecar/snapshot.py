"""What a sidecar keeps across restarts: its generation, addresses of other members, and the pool's policies.

The addresses are only an address book. They carry no claims about members, because those would be out of date. Policies
do not go out of date: the last write wins whenever it arrives. So a pool that is stopped as a whole comes back with the
shares it had.

If the file cannot be read, the sidecar logs a warning and starts without it.
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
from rumormill.sidecar.settings import Settings

MAX_BYTES = 1 << 20
MIN_WRITE_INTERVAL = 1.0
"""Seconds between two writes of the file, at least."""
MAX_ADDRESSES = 256
"""Enough to find any pool again."""


SignedPolicies = list[tuple[bytes, bytes]]
"""Encoded policies with their signatures."""
Content = tuple[int, list[Address], SignedPolicies]
"""Generation, addresses, policies."""


class SavedState(msgspec.Struct, frozen=True):
    """The file's content, as JSON."""

    name: str
    cluster: str
    generation: MonotonicCounter
    addresses: list[tuple[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]]]
    version: Literal[1] = 1
    policies: SignedPolicies = []


class SnapshotIgnored(Exception):
    """The file exists but cannot be used; the text says why. The sidecar starts without it."""


@dataclass(frozen=True, slots=True)
class RestoredState:
    """What an earlier run of this member has saved."""

    generation: int = 0
    """The highest generation it had; 0 if unknown."""
    addresses: tuple[Address, ...] = ()
    policies: tuple[tuple[bytes, bytes], ...] = ()
    """Not verified yet: the node accepts those it may."""


def read_snapshot_untrusted(path: Path, name: str, cluster: str) -> RestoredState:
    """The content of the file; empty if there is no file. Raises :class:`SnapshotIgnored` for any other problem."""
    try:
        with path.open("rb") as file:
            snapshot = msgspec.json.decode(file.read(MAX_BYTES), type=SavedState)
    except FileNotFoundError:
        return RestoredState()
    except OSError as error:
        raise SnapshotIgnored(f"cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotIgnored(f"is damaged: {error}") from None
    if (snapshot.name, snapshot.cluster) != (name, cluster):
        raise SnapshotIgnored(f"belongs to member {snapshot.name!r} of cluster {snapshot.cluster!r}")
    addresses = [(host, port) for host, port in snapshot.addresses if _is_literal(host)]
    return RestoredState(
        min(snapshot.generation, COUNTER_LIMIT - 2), tuple(addresses[:MAX_ADDRESSES]), tuple(snapshot.policies)
    )


def read_snapshot_or_start_empty(settings: Settings, on_trouble: Callable[[str], None]) -> RestoredState:
    """The snapshot that the settings name; empty, and trouble is reported, if it cannot be used."""
    if settings.snapshot is None:
        return RestoredState()
    try:
        return read_snapshot_untrusted(settings.snapshot, settings.name, settings.cluster)
    except SnapshotIgnored as error:
        on_trouble(f"{settings.snapshot} {error}; starting without it")
        return RestoredState()


def write_snapshot(
    path: Path,
    name: str,
    cluster: str,
    generation: int,
    addresses: Sequence[Address],
    policies: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Replace the file atomically. Blocks for the disk. After an OSError the old file is still there."""
    snapshot = SavedState(name, cluster, generation, list(addresses)[:MAX_ADDRESSES], policies=list(policies))
    replace_file(path, msgspec.json.encode(snapshot) + b"\n")


def snapshot_writer(
    path: Path | None,
    name: str,
    cluster: str,
    read: Callable[[], Content],
    restored: Sequence[Address],
    warn: Callable[[str], None],
    min_interval: float = MIN_WRITE_INTERVAL,
) -> FileWriter[Content]:
    """Keeps the file up to date to within ``min_interval`` seconds.

    The restored addresses are kept until others are known: a pool that is away for a moment must not empty the file.
    """
    known_addresses = list(restored)

    def content() -> Content:
        nonlocal known_addresses
        generation, addresses, policies = read()
        known_addresses = addresses or known_addresses
        return generation, known_addresses, policies

    def write(path: Path, content: Content) -> None:
        write_snapshot(path, name, cluster, *content)

    return FileWriter(path, content, write, warn, min_interval=min_interval)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
