"""Files that hold secrets: group keys and the HTTP tokens. Read only when nobody else can read them.

A group of ours may: in Kubernetes a secret's files are root's, and pods that are not root read them by ``fsGroup``.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from rumormill.gossip.dissemination.policy_replication import PolicyKey
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
    """The text of a file that only its owner, or a group of ours, can read. ``make`` says how to get one. Raises
    :class:`SettingsError`.

    What begins with the word ``unless`` is public, and others may read it.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{what} {path} does not exist", make) from None
    except OSError as error:
        raise SettingsError(
            f"{what} {path} cannot be read: {error.strerror}",
            f"ls -l {path} shows whose it is; it must be yours, mode 0600, or a group's of yours, mode 0440",
        ) from None
    if exposed(found, groups()) and not (unless and data.startswith(unless.encode() + b" ")):
        mode = stat.S_IMODE(found.st_mode)
        raise SettingsError(f"{what} {path} can be read by others (mode {mode:04o})", _how_to_close(path, found.st_uid))
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{what} {path} is longer than {MAX_BYTES} bytes", make)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{what} {path} is not text", make) from None


def groups() -> frozenset[int]:
    """The groups this process is in."""
    return frozenset((os.getegid(), *os.getgroups()))


def exposed(found: os.stat_result, ours: frozenset[int]) -> bool:
    """Whether anybody but its owner, and our own groups, may do anything with the file."""
    allowed = 0o760 if found.st_gid in ours else 0o700
    return bool(stat.S_IMODE(found.st_mode) & ~allowed & 0o777)


def _how_to_close(path: Path, owner: int) -> str:
    if owner == os.geteuid():
        return f"chmod 600 {path}"
    return f"have its owner run chmod 640 {path}, its group one of yours; in Kubernetes: fsGroup, and defaultMode: 0440"
