"""Every datagram is sealed, or says openly that it is not.

A header of 34 bytes is authenticated but readable: version and kind (1), key id (1), label hash (8), halves of the
sender's and the receiver's instance (8 + 8), a counter (8). Behind it stands the payload under AES-256-GCM with a tag
of 16 bytes. The nonce is the counter, and there is one counter for everything a process sends: since the key is derived
from the sender's own half, and instances are fresh at each start, no nonce is ever used twice under one key. The group
key itself seals nothing.

A header that names another receiver's instance was recorded for an earlier life of this address, or is passing through
on its way to someone else. A header with another label belongs to another pool and goes no further.
"""

from __future__ import annotations

import functools
import hashlib
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rumormill.gossip.keyring import KeyRing, key_id_of

HEADER = struct.Struct("!BB8s8s8sQ")
TAG_BYTES = 16
OVERHEAD = HEADER.size + TAG_BYTES
NOBODY = bytes(8)
"""The receiver half of a datagram to an address whose tenant is not known."""

_SEALED = 0x10  # wire version 1 in the high nibble, kind in the low
_PLAIN = 0x11


class Unopened(Exception):
    """A datagram that is not for us, or not what it claims to be. ``reason`` is the name of a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def label_hash(cluster: str) -> bytes:
    """Eight bytes that stand for the cluster label in every header."""
    return hashlib.sha256(b"rumormill label" + cluster.encode()).digest()[:8]


@functools.lru_cache(maxsize=8192)
def _cipher(group_key: bytes, label: bytes, sender: bytes) -> AESGCM:
    """The sender's own cipher. A pure function, cached because deriving a key costs ten times a datagram."""
    derived = HKDF(SHA256(), 32, salt=label, info=b"rumormill 1 sender" + sender).derive(group_key)
    return AESGCM(derived)


class Seal:
    """Seals what one member sends and opens what it receives.

    ``keyring`` None means plaintext: the header stands, nothing is hidden or authenticated, and sealed datagrams are
    refused as plaintext ones are by everybody else.
    """

    def __init__(self, keyring: KeyRing | None, cluster: str, half: bytes) -> None:
        self.label = label_hash(cluster)
        self.half = half
        self._counter = 0
        self._pack = HEADER.pack
        self._unpack = HEADER.unpack_from
        self.use(keyring)

    def use(self, keyring: KeyRing | None) -> None:
        """From now on: all these keys open, the primary seals. What was sealed before stays as it is."""
        self.keyring = keyring
        self._keys_by_id: dict[int, list[bytes]] = {}
        for key in keyring.keys if keyring else ():
            self._keys_by_id.setdefault(key_id_of(key), []).append(key)
        self._kind = _SEALED if keyring else _PLAIN
        self._key_id = key_id_of(keyring.primary) if keyring else 0
        self._own = _cipher(keyring.primary, self.label, self.half) if keyring else None

    def seal(self, receiver: bytes, payload: bytes) -> bytes:
        """Payload to datagram, for the member of that half (or :data:`NOBODY` known)."""
        self._counter = counter = self._counter + 1
        header = self._pack(self._kind, self._key_id, self.label, self.half, receiver, counter)
        if self._own is None:
            return header + payload
        return header + self._own.encrypt(b"\0\0\0\0" + header[26:], payload, header)

    def parties(self, data: bytes) -> tuple[bytes, bytes]:
        """Who a datagram claims to be from and for (halves), before anything is believed.

        Raises :class:`Unopened` for what is too short, of another version or kind, or of another pool.
        """
        if len(data) < HEADER.size:
            raise Unopened("short")
        kind, _, label, sender, receiver, _ = self._unpack(data)
        if kind != self._kind:
            raise Unopened("plaintext" if kind == _PLAIN else "sealed" if kind == _SEALED else "version")
        if label != self.label:
            raise Unopened("label")
        return sender, receiver

    def open(self, data: bytes, sender: bytes) -> bytes:
        """The payload of a datagram whose :meth:`parties` were read. Raises :class:`Unopened`."""
        header = data[: HEADER.size]
        if self._own is None:
            return data[HEADER.size :]
        nonce = b"\0\0\0\0" + header[26:]
        body = data[HEADER.size :]
        if (keys := self._keys_by_id.get(header[1])) is None:
            raise Unopened("unknown_key")
        for key in keys:
            try:
                return _cipher(key, self.label, sender).decrypt(nonce, body, header)
            except InvalidTag:
                continue
        raise Unopened("key")
