"""The file of group keys: read at the start, and written again when the pool's ring has changed.

A ring that came by gossip is written with its version, so that a member that restarts still knows which ring is the
newer. Whoever edits such a file makes it version 0 again: then what the pool holds wins. Nothing of it stops a sidecar:
where the file cannot be written it goes on with the ring it has, and says so, loudly.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from rumormill.gossip.keyring import InvalidKey, KeyRing, ring_digest
from rumormill.membership.record import MAX_LIFE
from rumormill.sidecar.errors import SettingsError
from rumormill.sidecar.secrets import read_private

AGAIN_SECONDS = 10.0
"""Between tries to write the file while that fails."""
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
            if version < MAX_LIFE and digest.strip() == ring_digest(version, ring.keys).hex():
                return KeyFile(ring, version)
    return KeyFile(ring)


def write_key_file(path: Path, file: KeyFile) -> None:
    """Replace the file in one step, mode 0600, unless it holds a newer ring already. Blocks; raises OSError."""
    path = path.resolve()
    with contextlib.suppress(SettingsError):
        if read_key_file(path).version >= file.version:
            return
    digest = ring_digest(file.version, file.ring.keys).hex()
    text = f"# Written by rumormill; the first key seals.\n{_MARK}{file.version} {digest}\n{file.ring.to_text()}"
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


class KeyFileKeeper:
    """Writes the ring to its file whenever it has changed, in a thread, and tries again while that fails."""

    def __init__(self, path: Path | None, read: Callable[[], KeyFile | None], warn: Callable[[str], None]) -> None:
        """`read` is asked for what should be in the file, `warn` is told of trouble, each time it is tried in vain."""
        self._path = path
        self._read = read
        self._warn = warn
        self._written = read()
        self._due = trio.Event()
        self.trouble = ""
        """Why the file does not hold the present ring; empty when it does."""

    def changed(self) -> None:
        """The ring may have changed."""
        self._due.set()

    async def run(self) -> None:
        """Write whenever there is something new; returns only where there is no file."""
        if self._path is None:
            return
        while True:
            await self._due.wait()
            self._due = trio.Event()
            wanted = self._read()
            if wanted is None or wanted == self._written:
                continue
            problem = await trio.to_thread.run_sync(_write, self._path, wanted)
            if problem is None:
                self._written, self.trouble = wanted, ""
                continue
            self.trouble = f"{self._path} cannot be written: {problem.strerror or problem}"
            self._warn(f"{self.trouble}; this member would restart with the old keys: copy another member's file there")
            self._due.set()
            await trio.sleep(AGAIN_SECONDS)


def _write(path: Path, file: KeyFile) -> OSError | None:
    try:
        write_key_file(path, file)
    except OSError as error:
        return error
    return None
