"""Files that hold secrets: group keys and the HTTP tokens. Read only when nobody else can read them."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from rumormill.gossip.policies import PolicyKey
from rumormill.sidecar.errors import SettingsError

MAX_BYTES = 1 << 16
POLICY_PRIVATE, POLICY_PUBLIC = "ed25519-private", "ed25519-public"


def read_token_file(path: Path) -> str:
    """The bearer token callers of the discovery endpoint must send: the file's one line."""
    generate = f"any long random word will do, and so does a key: rumormill keys generate --out {path}"
    token = read_private(path, "token file", generate).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"token file {path} does not hold one word of plain characters", generate)
    return token


def read_policy_key(path: Path) -> PolicyKey:
    """The key policies are signed by, or only checked with: the file's one line says which half it is."""
    generate = f"make one: rumormill keys policy --out {path}"
    kind, _, encoded = read_private(path, "policy key", generate, unless=POLICY_PUBLIC).strip().partition(" ")
    try:
        raw = base64.b64decode(encoded, validate=True)
        if kind == POLICY_PRIVATE:
            return PolicyKey.signing(raw)
        if kind == POLICY_PUBLIC:
            return PolicyKey.checking(raw)
    except ValueError:
        kind = ""
    raise SettingsError(
        f"policy key {path} does not hold one line of {POLICY_PRIVATE} or {POLICY_PUBLIC}, and base64 of 32 bytes",
        generate,
    )


def read_private(path: Path, what: str, make: str, unless: str = "") -> str:
    """The text of a file that only its owner can read. Raises :class:`SettingsError`; ``make`` says how to get one.

    What begins with the word ``unless`` is public, and others may read it.
    """
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
    if mode & 0o077 and not (unless and data.startswith(unless.encode() + b" ")):
        raise SettingsError(f"{what} {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{what} {path} is longer than {MAX_BYTES} bytes", make)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{what} {path} is not text", make) from None
