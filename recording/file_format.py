"""A record as a file: a stream of MessagePack objects, which any msgpack reads.

====================================================================  =================================================
object                                                                meaning
====================================================================  =================================================
["rumormill record", 1, {name, cluster, version, python, wall_offset}]  the header, first and once
["segment", now, key_version, state]                                  a state (snapshot.py), from which the rest plays
["receive", datagram, host, port, now, arrived, opened]               a datagram came, as it is behind the seal
["refusal", datagram, host, port, now]                                a kernel refused a datagram of this member
["timer", now]                                                        the timer was handled
["crossed", tags, signatures, tokens]                                 what else the next entry took in
["sent", count, digest]                                               what left, as a checksum
["event", at, kind, member, text, old, new, reason]                   a conclusion
["seeds", [[host, port], ...]]  ["update", ...]  ["leave", now]  …    the other verbs
["cut", why]                                                          the segment cannot go on; another one follows
====================================================================  =================================================

Times are seconds on the member's own clock (CLOCK_BOOTTIME); ``wall_offset`` takes them to seconds since 1970.
``opened`` is true for a datagram that was opened, the reason for one that could not be, and null for one that nobody
tried to open. Such a datagram stands as it came; an opened one as its header, its payload and its tag.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec

from rumormill.membership.record import Address

MAGIC: Final = "rumormill record"
FORMAT: Final = 1

DIGEST_BYTES: Final = 8

Entry = tuple[Any, ...]
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Header:
    """Whose record it is."""

    name: str
    cluster: str
    version: str
    """The version of rumormill that wrote it. Another version may conclude otherwise."""
    python: str
    wall_offset: float
    """Wall clock minus the member's clock, in seconds, when the record began."""

    @classmethod
    def of(cls, name: str, cluster: str, wall_offset: float) -> Header:
        """The header of a record that this process writes."""
        return cls(name, cluster, version("rumormill"), platform.python_version(), wall_offset)

    def encode(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return _encode((MAGIC, FORMAT, fields))


def encode_segment_start(now: float, key_version: int, state: list[Any]) -> bytes:
    return _encode(("segment", now, key_version, state))


def encode_entries(entries: Iterable[Entry]) -> bytes:
    return b"".join(map(_encode, entries))


def digest_of(outbox: list[tuple[Address, bytes]]) -> bytes:
    """Over datagrams as they are behind the seal, and where they go."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for (host, port), datagram in outbox:
        digest.update(f"{host}:{port} ".encode() + datagram)
    return digest.digest()
