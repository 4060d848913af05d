"""The group keys a member holds: all of them open, the first one seals.

A ring never changes; :meth:`KeyRing.with_key` and its like make another. A key is spoken of by its id, eight
hexadecimal digits of a hash of it, of which the first two stand in every header. Keys themselves are shown nowhere: not
by ``repr``, not in an error.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

KEY_BYTES = 32
MAX_KEYS = 8
"""A rotation needs two or three; a ring must fit one datagram."""


class InvalidKey(ValueError):
    """A key, or a key file's content, that cannot be used; says why, and never what stood there."""


@functools.lru_cache(maxsize=1024)
def _fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(b"rumormill key id" + key).digest()


def key_id_of(key: bytes) -> int:
    """One byte that tells group keys apart on the wire; a rare collision costs a second attempt to open."""
    return _fingerprint(key)[0]


def key_name_of(key: bytes) -> str:
    """What people call a key: eight hexadecimal digits, the first two of them its id on the wire."""
    return _fingerprint(key)[:4].hex()


def ring_digest(version: int, keys: Sequence[bytes]) -> bytes:
    """Eight bytes that stand for a ring at a version: rings of one version are ordered by them."""
    return hashlib.sha256(b"rumormill key ring" + version.to_bytes(8, "big") + b"".join(keys)).digest()[:8]


def proof_of(key: bytes, text: bytes) -> bytes:
    """Shows that whoever said this holds the key, without showing the key: HMAC-SHA256 under one derived from it."""
    return hmac.digest(hashlib.sha256(b"rumormill key proof" + key).digest(), text, "sha256")


def parse_key(word: str) -> bytes:
    """One key as it is written: base64 of 32 bytes. Raises :class:`InvalidKey`."""
    try:
        key = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey("is not base64") from None
    if len(key) != KEY_BYTES:
        raise InvalidKey(f"holds {len(key)} bytes; a key has {KEY_BYTES}")
    return key


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Group keys, 32 bytes each, the primary first."""

    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not self.keys or any(len(key) != KEY_BYTES for key in self.keys):
            raise InvalidKey(f"a key ring holds at least one key, each of {KEY_BYTES} bytes")
        if len(self.keys) > MAX_KEYS:
            raise InvalidKey(f"a key ring holds at most {MAX_KEYS} keys")
        if len(set(self.keys)) < len(self.keys):
            raise InvalidKey("the same key stands in it twice")

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.names)})"

    @classmethod
    def from_text(cls, text: str) -> KeyRing:
        """Read the content of a key file: one base64 key a line, blank lines and ``#`` comments aside."""
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            if not (word := line.split("#", 1)[0].strip()):
                continue
            try:
                keys.append(parse_key(word))
            except InvalidKey as error:
                raise InvalidKey(f"line {number} {error}") from None
        if not keys:
            raise InvalidKey("there is no key in it")
        return cls(tuple(dict.fromkeys(keys)))

    def to_text(self) -> str:
        """The lines of a key file, the primary's first."""
        return "".join(f"{base64.b64encode(key).decode()}  # {key_name_of(key)}\n" for key in self.keys)

    @property
    def primary(self) -> bytes:
        """The key that seals."""
        return self.keys[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The keys' ids, in their order."""
        return tuple(key_name_of(key) for key in self.keys)

    def key_named(self, name: str) -> bytes | None:
        """The key of an id, or None."""
        return next((key for key in self.keys if key_name_of(key) == name), None)

    def proves(self, proof: bytes, text: bytes) -> bool:
        """Whether this is :func:`proof_of` the text by any of these keys. In constant time."""
        found = [hmac.compare_digest(proof, proof_of(key, text)) for key in self.keys]
        return any(found)

    def with_key(self, key: bytes) -> KeyRing:
        """One key more, the last; the same ring if it is in already."""
        return self if key in self.keys else KeyRing((*self.keys, key))

    def with_primary(self, key: bytes) -> KeyRing:
        """The same keys, with this one first. It must be one of them."""
        if key not in self.keys:
            raise InvalidKey("a key must be in the ring before it can seal")
        return KeyRing((key, *(other for other in self.keys if other != key)))

    def without_key(self, key: bytes) -> KeyRing:
        """One key less. The primary cannot go: another must seal first."""
        if key == self.primary:
            raise InvalidKey("the key that seals cannot be removed; make another the primary first")
        return KeyRing(tuple(other for other in self.keys if other != key))
