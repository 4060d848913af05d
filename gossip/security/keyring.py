"""The group keys a member holds: all of them open, the first one seals.

A ring is immutable: :meth:`KeyRing.with_key` and the like make another one. People call a key by eight hexadecimal
digits of its hash, of which the first two are in every header. Keys themselves are never shown, neither by ``repr`` nor
in an error. Nothing here is cached, so that a removed key leaves memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

KEY_BYTES = 32
MAX_KEYS = 8
"""A rotation needs two or three; a ring must fit one datagram."""


class InvalidKey(ValueError):
    """A key or key file that cannot be used. The text says why, and never shows the content."""


def _fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(b"rumormill key id" + key).digest()


def key_id_of(key: bytes) -> int:
    """The byte that tells group keys apart on the wire. A rare collision costs a second attempt to open."""
    return _fingerprint(key)[0]


def key_name_of(key: bytes) -> str:
    """What people call a key: eight hexadecimal digits, of which the first two are its id on the wire."""
    return _fingerprint(key)[:4].hex()


def ring_digest(version: int, keys: Sequence[bytes]) -> bytes:
    """Eight bytes that identify a ring at a version. They order the rings of one version."""
    return hashlib.sha256(b"rumormill key ring" + version.to_bytes(8, "big") + b"".join(keys)).digest()[:8]


def proof_of(key: bytes, text: bytes) -> bytes:
    """A proof that the author of a text holds the key, without showing it: HMAC-SHA256 under a derived key."""
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
            raise InvalidKey("it holds the same key twice")

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.names)})"

    @classmethod
    def from_text(cls, text: str) -> KeyRing:
        """Read a key file: one base64 key a line. Blank lines and ``#`` comments are skipped."""
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
        """The lines of a key file, with the primary first."""
        return "".join(f"{base64.b64encode(key).decode()}  # {key_name_of(key)}\n" for key in self.keys)

    @property
    def primary(self) -> bytes:
        """The key that seals."""
        return self.keys[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What people call the keys, in their order."""
        return tuple(key_name_of(key) for key in self.keys)

    @property
    def ids(self) -> tuple[int, ...]:
        """The bytes that stand for the keys on the wire, in their order."""
        return tuple(key_id_of(key) for key in self.keys)

    def digest(self, version: int) -> bytes:
        """The :func:`ring_digest` of this ring at a version."""
        return ring_digest(version, self.keys)

    def key_named(self, name: str) -> bytes | None:
        """The key that people call so, or None."""
        return next((key for key in self.keys if key_name_of(key) == name), None)

    def proves(self, proof: bytes, text: bytes) -> bool:
        """Whether this is a :func:`proof_of` the text by any of these keys. Takes constant time."""
        found = [hmac.compare_digest(proof, proof_of(key, text)) for key in self.keys]
        return any(found)

    def with_key(self, key: bytes) -> KeyRing:
        """The ring with one more key, added last; the same ring if it holds the key already."""
        return self if key in self.keys else KeyRing((*self.keys, key))

    def with_primary(self, key: bytes) -> KeyRing:
        """The same keys with this one, which must be among them, first."""
        if key not in self.keys:
            raise InvalidKey("a key must be in the ring before it can seal")
        return KeyRing((key, *(other for other in self.keys if other != key)))

    def without_key(self, key: bytes) -> KeyRing:
        """The ring without a key. The primary cannot go: make another key the primary first."""
        if key == self.primary:
            raise InvalidKey("the key that seals cannot be removed; make another the primary first")
        return KeyRing(tuple(other for other in self.keys if other != key))
