"""Files that hold secrets: group keys and the HTTP token. Read once, and only when nobody else can read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rumormill.gossip.keyring import InvalidKey, KeyRing
from rumormill.sidecar.errors import SettingsError

MAX_BYTES = 1 << 16


def read_key_file(path: Path) -> KeyRing:
    """The group keys in a file. Raises :class:`SettingsError`, with the line to type where there is no file."""
    generate = f"rumormill keys generate --out {path}"
    text = _read_private(path, "key file", generate)
    try:
        return KeyRing.from_text(text)
    except InvalidKey as error:
        raise SettingsError(f"key file {path}: {error}", f"a new one: {generate}") from None


def read_token_file(path: Path) -> str:
    """The bearer token callers of the discovery endpoint must send: the file's one line."""
    generate = f"any long random word will do, and so does a key: rumormill keys generate --out {path}"
    token = _read_private(path, "token file", generate).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"token file {path} does not hold one word of plain characters", generate)
    return token


def _read_private(path: Path, what: str, make: str) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{what} {path} does not exist", make) from None
    except OSError as error:
        raise SettingsError(
            f"{what} {path} cannot be read: {error.strerror}",
            f"ls -l {path} shows whose it is; it must be yours, mode 0600",
        ) from None
    if mode & 0o077:
        raise SettingsError(f"{what} {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{what} {path} is longer than {MAX_BYTES} bytes", make)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{what} {path} is not text", make) from None
