"""One group key and all that is derived from it, for as long as any member of this process holds the key.

Derived keys are cached, because the simulator runs both ends of each pair in one process. A cache belongs to its group
key. All seals of the process that hold the key share one :class:`GroupKey`. When the last of them drops it, the key and
everything derived from it leave memory together.
"""

from __future__ import annotations

import functools
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rumormill.gossip.security.credentials import KEY_BYTES, MemberKeys
from rumormill.gossip.security.keyring import key_id_of

MAX_DERIVED = 4096
MAX_STRANGER_CIPHERS = 1024
MAX_AGREEMENTS = 4096

_public_key = functools.lru_cache(maxsize=1024)(X25519PublicKey.from_public_bytes)


class GroupKey:
    """A group key with its caches. Get one from :func:`shared_group_key`."""

    __slots__ = ("__weakref__", "_agreements", "key_id", "pair_keys", "stranger_cipher")

    def __init__(self, key: bytes) -> None:
        self.key_id = key_id_of(key)
        """The byte that stands for this key in every header."""

        @functools.lru_cache(maxsize=MAX_DERIVED)
        def pair_keys(shared: bytes, label: bytes, instances: bytes) -> bytes:
            """Two keys, one for each direction, from what a pair agreed on and its two instances, the lower first."""
            return _derive(key + shared, label, b"rumormill 1 pair" + instances, 2 * KEY_BYTES)

        @functools.lru_cache(maxsize=MAX_STRANGER_CIPHERS)
        def stranger_cipher(label: bytes, sender: bytes) -> AESGCM:
            """The cipher for datagrams between a sender and members that do not know it."""
            return AESGCM(_derive(key, label, b"rumormill 1 stranger" + sender, KEY_BYTES))

        self.pair_keys = pair_keys
        self.stranger_cipher = stranger_cipher
        self._agreements: dict[tuple[bytes, bytes], bytes] = {}

    def agree(self, keys: MemberKeys, their_public: bytes) -> bytes:
        """The X25519 secret of a pair of members. It takes 30 to 50 µs, and is the same at both ends."""
        mine = keys.public[KEY_BYTES:]
        pair = (mine, their_public) if mine < their_public else (their_public, mine)
        known = self._agreements.get(pair)
        if known is None:
            known = keys.agreement.exchange(_public_key(their_public))
            if len(self._agreements) >= MAX_AGREEMENTS:
                del self._agreements[next(iter(self._agreements))]
            self._agreements[pair] = known
        return known


_group_keys: WeakValueDictionary[bytes, GroupKey] = WeakValueDictionary()


def shared_group_key(key: bytes) -> GroupKey:
    """The one :class:`GroupKey` of this process for these 32 bytes. It is kept for as long as somebody holds it."""
    found = _group_keys.get(key)
    if found is None:
        found = _group_keys[key] = GroupKey(key)
    return found


def _derive(secret: bytes, label: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=label, info=purpose).derive(secret)
