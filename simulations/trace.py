"""The trace of a run: a running hash of every datagram with its time, its link and its arrival."""

from __future__ import annotations

import hashlib
import struct

_pack = struct.Struct("<qqiiH").pack
_FLUSH_AT = 2048


class Trace:
    """Blake2b over (sent, arrival, source, target, length, bytes). The arrival of a lost datagram is -1.

    Datagrams are hashed in batches of a few hundred kilobytes, which costs a third of hashing each one alone.
    """

    __slots__ = ("_hash", "_parts", "datagrams")

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._parts: list[bytes] = []
        self.datagrams = 0

    def add(self, sent: int, source: int, target: int, arrival: int, data: bytes) -> None:
        """Times in microseconds, hosts by index."""
        parts = self._parts
        parts.append(_pack(sent, arrival, source, target, len(data)))
        parts.append(data)
        if len(parts) >= _FLUSH_AT:
            self._flush()

    def digest(self) -> str:
        """32 hexadecimal digits for everything added so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self.datagrams += len(self._parts) // 2
        self._hash.update(b"".join(self._parts))
        self._parts.clear()
