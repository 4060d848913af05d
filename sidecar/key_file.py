"""The file of group keys: read at the start, and written again when the pool's ring has changed.

A ring that came by gossip is written with its version, so that a member that restarts still knows which ring is the
newer. Whoever edits such a file makes it version 0 again: then what the pool holds wins. Nothing of it stops a sidecar:
where the file cannot be written it goes on with the ring it has, and says so, loudly.
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
from rumormill.sidecar.secrets import read_private

_MARK = "#: ring "


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file's content."""

    ring: KeyRing
    version: int = 0
    """How often the pool's ring had been changed when it was written; 0 where a person wrote it."""


def read_key_file(path: Path) -> KeyFile:
    """The group keys in a file. Raises :class:`SettingsError`, with the line to type where there is no file."""
    generate = f"rumormill keys generate --out {path}"
    text = read_private(path, "key file", generate)
    try:
        return parse_key_file(text)
    except InvalidKey as error:
        raise SettingsError(f"key file {path}: {error}", f"a new one: {generate}") from None


def parse_key_file(text: str) -> KeyFile:
    """Raises :class:`InvalidKey`."""
    ring = KeyRing.from_text(text)
    for line in text.splitlines():
        number, _, digest = line.removeprefix(_MARK).partition(" ")
        if line.startswith(_MARK) and number.isascii() and number.isdigit() and len(number) <= 13:
            version = int(number)
            if version < COUNTER_LIMIT and digest.strip() == ring_digest(version, ring.keys).hex():
                return KeyFile(ring, version)
    return KeyFile(ring)


def write_key_file(path: Path, file: KeyFile) -> None:
    """Replace the file in one step, mode 0600, unless it holds a newer ring already. Blocks; raises OSError."""
    with contextlib.suppress(SettingsError):
        if read_key_file(path).version >= file.version:
            return
    digest = ring_digest(file.version, file.ring.keys).hex()
    text = f"# Written by rumormill; the first key seals.\n{_MARK}{file.version} {digest}\n{file.ring.to_text()}"
    replace_file(path, text.encode())


def key_file_writer(
    path: Path | None,
    read: Callable[[], KeyFile | None],
    warn: Callable[[str], None],
    on_written: Callable[[KeyFile], None] = lambda _: None,
) -> FileWriter[KeyFile]:
    """Writes the ring to its file whenever it has changed."""

    def loudly(trouble: str) -> None:
        warn(f"{trouble}; this member would restart with the old keys: copy another member's file there")

    return FileWriter(path, read, write_key_file, loudly, written=read(), insist=True, on_written=on_written)
