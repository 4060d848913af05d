"""What proves that a caller holds a key of the pool: the bytes of its HMAC, put together alike at both ends."""

from __future__ import annotations

import hashlib


def proof_text(process: str, method: str, target: str, body: bytes) -> bytes:
    """The bytes that a proof covers."""
    return b"\n".join((process.encode(), method.encode(), target.encode(), hashlib.sha256(body).digest()))
