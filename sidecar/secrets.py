"""Reads files that hold secrets: group keys and HTTP tokens. A file that others can read is refused.

A group of this process may read it: in Kubernetes, root owns the files of a secret, and a pod that does not run as root
reads them through ``fsGroup``.
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
    """The bearer token that callers of the discovery endpoint must send: the file's only line."""
    generate = f"use any long random word, for instance a key: rumormill keys generate --out {path}"
    token = read_private_file(path, "token file", generate).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"token file {path} must hold one word of printable ASCII characters", generate)
    return token


def read_policy_key(path: Path) -> PolicyKey:
    """The key that signs policies, or only verifies them. The file's only line says which half of the key it is."""
    generate = f"make one: rumormill keys policy --out {path}"
    kind, _, encoded = (
        read_private_file(path, "policy key", generate, public_prefix=POLICY_PUBLIC).strip().partition(" ")
    )
    try:
        raw = base64.b64decode(encoded, validate=True)
        if kind == POLICY_PRIVATE:
            return PolicyKey.signing(raw)
        if kind == POLICY_PUBLIC:
            return PolicyKey.checking(raw)
    except ValueError:
        kind = ""
    raise SettingsError(
        f"policy key {path} must hold one line: {POLICY_PRIVATE} or {POLICY_PUBLIC}, a space, and 32 bytes in base64",
        generate,
    )


def read_private_file(path: Path, what: str, create_hint: str, public_prefix: str = "") -> str:
    """The text of a file that only its owner, or a group of this process, can read. Raises :class:`SettingsError`.

    ``what`` names the file in errors; ``create_hint`` says how to create it. A file that begins with the word
    ``public_prefix`` is public, and may be readable by everyone.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(f"{what} {path} does not exist", create_hint) from None
    except OSError as error:
        raise SettingsError(
            f"{what} {path} cannot be read: {error.strerror}",
            f"check with ls -l {path}: you must own it (mode 0600), or it must belong to a group of yours (mode 0440)",
        ) from None
    if is_exposed(found, own_groups()) and not (public_prefix and data.startswith(public_prefix.encode() + b" ")):
        mode = stat.S_IMODE(found.st_mode)
        raise SettingsError(
            f"{what} {path} can be read by others (mode {mode:04o})", _permission_hint(path, found.st_uid)
        )
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{what} {path} is longer than {MAX_BYTES} bytes", create_hint)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{what} {path} is not text", create_hint) from None


def own_groups() -> frozenset[int]:
    """The groups of this process."""
    return frozenset((os.getegid(), *os.getgroups()))


def is_exposed(found: os.stat_result, ours: frozenset[int]) -> bool:
    """Whether anybody but the owner and this process's groups has any permission on the file."""
    allowed = 0o760 if found.st_gid in ours else 0o700
    return bool(stat.S_IMODE(found.st_mode) & ~allowed & 0o777)


def _permission_hint(path: Path, owner: int) -> str:
    if owner == os.geteuid():
        return f"chmod 600 {path}"
    return (
        f"its owner must run chmod 640 {path} and give it a group of yours; Kubernetes: fsGroup and defaultMode: 0440"
    )
