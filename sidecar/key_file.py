"""The file of group keys: read at the start, and rewritten when the pool's key ring has changed.

A key ring that came by gossip is written with its version, so that a member that restarts still knows which ring is
newer. A file that a person has edited counts as version 0, and the pool's ring then wins. If the file cannot be
written, the sidecar keeps running with the ring it has and logs an error at each attempt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rumormill.gossip.security.keyring import InvalidKey, KeyRing, ring_digest
from rumormill.membership.record import COUNTER_LIMIT
from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.file_writer import FileWriter, replace_file
from rumormill.sidecar.secrets import read_private_file

_RING_LINE = "#: ring "


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file's content."""

    ring: KeyRing
    version: int = 0
    """The number of changes of the pool's ring when the file was written; 0 if a person wrote it."""


def read_key_file(path: Path) -> KeyFile:
    """The group keys in a file. Raises :class:`SettingsError`; its hint is the command that creates the file."""
    generate = f"rumormill keys generate --out {path}"
    text = read_private_file(path, "key file", generate)
    try:
        return parse_key_file(text)
    except InvalidKey as error:
        raise SettingsError(f"key file {path}: {error}", f"restore the file, or make a new key: {generate}") from None


def parse_key_file(text: str) -> KeyFile:
    """Raises :class:`InvalidKey`."""
    ring = KeyRing.from_text(text)
    for line in text.splitlines():
        number, _, digest = line.removeprefix(_RING_LINE).partition(" ")
        if line.startswith(_RING_LINE) and number.isascii() and number.isdigit() and len(number) <= 13:
            version = int(number)
            if version < COUNTER_LIMIT and digest.strip() == ring_digest(version, ring.keys).hex():
                return KeyFile(ring, version)
    return KeyFile(ring)


def write_key_file(path: Path, file: KeyFile) -> None:
    """Replace the file atomically, mode 0600, unless it already holds this ring or a newer one. Blocks; raises
    OSError, but not where the file's folder is read-only and a person has put this ring there."""
    found = None
    with contextlib.suppress(SettingsError):
        found = read_key_file(path)
    if found is not None and found.version >= file.version:
        return
    digest = ring_digest(file.version, file.ring.keys).hex()
    text = f"# Written by rumormill; the first key seals.\n{_RING_LINE}{file.version} {digest}\n{file.ring.to_text()}"
    try:
        replace_file(path, text.encode())
    except OSError:
        if found is None or found.ring != file.ring:
            raise


def key_file_writer(
    path: Path | None,
    read: Callable[[], KeyFile | None],
    warn: Callable[[str], None],
    on_written: Callable[[KeyFile], None] = lambda _: None,
) -> FileWriter[KeyFile]:
    """Writes the key ring to its file whenever it has changed."""

    def warn_with_advice(trouble: str) -> None:
        warn(
            f"{trouble}; after a restart this member would use its old keys: copy the key file of another member there"
        )

    return FileWriter(
        path, read, write_key_file, warn_with_advice, written=read(), warn_every_time=True, on_written=on_written
    )
