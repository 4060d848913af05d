"""Key files as `rumormill keys generate` writes them, with keys that the test knows."""

from __future__ import annotations

from pathlib import Path

from rumormill.gossip import KeyRing


def key_file(path: Path, *keys: bytes) -> Path:
    """A private file that holds these keys, the primary first."""
    path.write_text(KeyRing(keys).to_text())
    path.chmod(0o600)
    return path
