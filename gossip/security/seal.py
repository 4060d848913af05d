"""Every datagram is sealed, or says openly that it is not.

A header of 34 bytes is authenticated but readable: version and kind (1), key id (1), label hash (8), halves of the
sender's and the receiver's instance (8 + 8), a counter (8). Behind it stands the payload under AES-256-GCM with a tag
of 16 bytes. The group key itself seals nothing; every key is derived from it:

=========  ================================================================  ====================================
kind       key                                                               for
=========  ================================================================  ====================================
pair       HKDF(group key, X25519 agreement; label, both), a direction each  everything between known members
stranger   HKDF(group key; label, sender)                                    join, challenge, hello, welcome, who
plain      none                                                              everything, if no key was given
=========  ================================================================  ====================================

So nobody seals as another, not even a holder of the group key. The nonce is the counter, one for everything a process
sends; instances are fresh at each start, so no nonce meets the same key twice, whatever clocks do (a forked process
sends nothing: the shell sees to that). A counter is taken once: each peer has a window (:class:`ReplayWindow`) that
moves only after the tag has been checked, so nobody can poison it. A header that names another receiver's instance was
recorded for an earlier life of this address, or is passing through on its way to someone else.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections import deque

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rumormill.gossip.security.credentials import KEY_BYTES, MemberKeys
from rumormill.gossip.security.keyring import KeyRing, key_id_of
from rumormill.membership.record import InstanceId, MemberId, instance_of, member_id_of

HEADER = struct.Struct("!BB8s8s8sQ")
_PARTIES, _PARTIES_AT = struct.Struct("8s8s"), 10
TAG_BYTES = 16
HEADER_BYTES = HEADER.size
OVERHEAD = HEADER_BYTES + TAG_BYTES
UNKNOWN_RECEIVER = MemberId(bytes(8))
"""The receiver half of a datagram to an address whose tenant is not known."""

WINDOW = 1024
"""Counters behind the highest that are still taken, once. 64 lost 53 of 2028 datagrams in one burst."""
RENEW_COUNTER = 1 << 36
"""Where a member takes new keys: two years at a thousand datagrams a second."""
LAST_COUNTER = 1 << 40
"""Where sealing and opening end: far below the 2^48 blocks at which a GCM key of fixed nonces begins to show."""
MAX_RETIRED = 10_000
MAX_AGREEMENTS = 4096
AT_HAND = 32
"""Members whose ciphers are kept (.8 kB each, two a member): those we talk with all the time, and the last others. Of
everybody else the keys are kept, and a cipher is made from its key in .9 µs."""

_PAIR, _PLAIN, STRANGER = 0x10, 0x11, 0x12  # wire version 1 in the high nibble, kind in the low
_NONCE_PREFIX = bytes(4)
_MASK = (1 << WINDOW) - 1
_LONG = 1 << 2 * WINDOW
"""What is older than the window is cut off now and then, not each time."""


class DecryptError(Exception):
    """A datagram that is not for us, or not what it claims to be. ``reason`` is the name of a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CounterExhausted(RuntimeError):
    """This process must seal nothing more under these keys. Members take new ones long before."""


def label_hash(cluster: str) -> bytes:
    """Eight bytes that stand for the cluster label in every header."""
    return hashlib.sha256(b"rumormill label" + cluster.encode()).digest()[:8]


class ReplayWindow:
    """Which counters of one sender have been taken."""

    __slots__ = ("_seen", "highest")

    def __init__(self, highest: int = 0) -> None:
        self.highest = highest
        self._seen = _MASK if highest else 0
        """Bit n: the counter ``highest - n`` has been taken, or is not to be."""

    def accepts(self, counter: int) -> bool:
        """Whether this counter may still be taken."""
        behind = self.highest - counter
        return behind < 0 or (behind < WINDOW and not self._seen >> behind & 1)

    def mark_seen(self, counter: int) -> None:
        """Take a counter whose datagram has been found authentic."""
        ahead = counter - self.highest
        if ahead > 0:
            seen = self._seen << ahead | 1 if ahead < WINDOW else 1
            self._seen = seen if seen < _LONG else seen & _MASK
            self.highest = counter
        else:
            self._seen |= 1 << -ahead


class SealPeer(ReplayWindow):
    """Another member, as far as sealing is concerned: its public key, the keys agreed with it, its window."""

    __slots__ = ("agreement", "group", "instance", "key_in", "key_out", "opener", "sealer", "shared")

    def __init__(self, instance: InstanceId, agreement: bytes, highest: int) -> None:
        super().__init__(highest)
        self.instance = instance
        self.agreement = agreement
        self.shared = b""
        self.group = self.key_in = self.key_out = b""
        """The group key our two were last derived from, and those."""
        self.opener: AESGCM | None = None
        self.sealer: AESGCM | None = None
        """Their ciphers, while at hand."""


class Seal:
    """Seals what one member sends and opens what it receives.

    ``keyring`` None means plaintext: the header stands, nothing is hidden or authenticated, and sealed datagrams are
    refused as plaintext ones are by everybody else.
    """

    __slots__ = (
        "_at_hand",
        "_keys",
        "_keys_by_id",
        "_opening",
        "_primary",
        "_retired",
        "accepted_kinds",
        "counter",
        "key_id",
        "keyring",
        "label",
        "member_id",
        "peers",
    )

    def __init__(self, keyring: KeyRing | None, cluster: str, keys: MemberKeys) -> None:
        self.label = label_hash(cluster)
        self.member_id = keys.member_id
        self.counter = 0
        self._keys = keys
        self.peers: dict[MemberId, SealPeer] = {}
        """By half: those we can seal for, and open."""
        self._retired: dict[MemberId, int] = {}
        """The last counters of those we forgot: should they come back, what they sent before does not."""
        self._at_hand: deque[SealPeer] = deque()
        self.accepted_kinds: tuple[int, ...] = ()
        """Kinds of header that are heard here: sealed ones, or plain ones."""
        self.set_keyring(keyring)

    def set_keyring(self, keyring: KeyRing | None) -> None:
        """From now on: all these keys open, the primary seals. What was sealed before stays as it is."""
        self.keyring = keyring
        self._keys_by_id: dict[int, list[bytes]] = {}
        for key in keyring.keys if keyring else ():
            self._keys_by_id.setdefault(key_id_of(key), []).append(key)
        self.accepted_kinds = (_PAIR, STRANGER) if keyring else (_PLAIN,)
        self._primary = keyring.primary if keyring else b""
        self.key_id = key_id_of(keyring.primary) if keyring else 0
        self._opening = bytes((_PAIR, self.key_id)) + self.label + self.member_id

    # --- who we know

    def add_peer(self, public: bytes) -> None:
        """Be ready to talk with the member of these public keys."""
        instance = instance_of(public)
        member_id = member_id_of(instance)
        if member_id not in self.peers:
            self.peers[member_id] = SealPeer(instance, public[KEY_BYTES:], self._retired.pop(member_id, 0))

    def forget(self, member_id: MemberId) -> None:
        """A member's row and tombstone are gone. Its last counter is kept, and of these as many as fit."""
        peer = self.peers.pop(member_id, None)
        if peer is not None and peer.highest:
            self._retired[member_id] = peer.highest
            if len(self._retired) > MAX_RETIRED:
                del self._retired[next(iter(self._retired))]

    # --- sealing

    def seal(self, receiver: MemberId, payload: bytes) -> bytes:
        """Payload to datagram, for a member we :meth:`add_peer`. Raises KeyError for others, and
        :class:`CounterExhausted`."""
        primary = self._primary
        if not primary:
            return self._header(_PLAIN, receiver) + payload
        peer = self.peers[receiver]
        if peer.group is not primary:
            self._derive(peer, primary)
        self.counter = counter = self.counter + 1
        if counter >= LAST_COUNTER:
            raise CounterExhausted
        count = counter.to_bytes(8, "big")
        header = self._opening + receiver + count
        sealer = peer.sealer or self._equip(peer)[0]
        return header + sealer.encrypt(_NONCE_PREFIX + count, payload, header)

    def seal_for_stranger(self, receiver: MemberId, payload: bytes) -> bytes:
        """Payload to datagram, for somebody who may not know us (or :data:`UNKNOWN_RECEIVER` known)."""
        if not self._primary:
            return self._header(_PLAIN, receiver) + payload
        header = self._header(STRANGER, receiver)
        cipher = _stranger_cipher(self._primary, self.label, self.member_id)
        return header + cipher.encrypt(_NONCE_PREFIX + header[26:], payload, header)

    def _header(self, kind: int, receiver: MemberId) -> bytes:
        self.counter = counter = self.counter + 1
        if counter >= LAST_COUNTER:
            raise CounterExhausted
        return HEADER.pack(kind, self.key_id, self.label, self.member_id, receiver, counter)

    # --- opening

    def claimed_ids(self, data: bytes) -> tuple[MemberId, MemberId]:
        """Who a datagram claims to be from and for (halves), before anything is believed.

        Raises :class:`DecryptError` for what is too short, of another version, kind or pool, or under a key we lack.
        """
        if len(data) < HEADER_BYTES:
            raise DecryptError("short")
        kind = data[0]
        if kind not in self.accepted_kinds:
            raise DecryptError("plaintext" if kind == _PLAIN else "sealed" if kind in (_PAIR, STRANGER) else "version")
        if data[2:10] != self.label:
            raise DecryptError("label")
        if kind != _PLAIN and data[1] not in self._keys_by_id:
            raise DecryptError("unknown_key")
        return _PARTIES.unpack_from(data, _PARTIES_AT)

    @staticmethod
    def is_from_stranger(data: bytes) -> bool:
        """Whether it is sealed in the way of those who do not know each other yet."""
        return data[0] == STRANGER

    def open(self, data: bytes, sender: MemberId) -> bytes:
        """The payload of a datagram from a member we :meth:`add_peer`, once. Raises :class:`DecryptError`."""
        if not self._primary:
            return data[HEADER_BYTES:]
        peer = self.peers[sender]
        count = data[26:34]
        counter = int.from_bytes(count, "big")
        if counter <= peer.highest and not peer.accepts(counter):
            raise DecryptError("replay")
        for key in self._keys_by_id.get(data[1], ()):
            if peer.group is not key:
                self._derive(peer, key)
            opener = peer.opener or self._equip(peer)[1]
            try:
                payload = opener.decrypt(_NONCE_PREFIX + count, data[34:], data[:34])
            except InvalidTag:
                continue
            if counter >= LAST_COUNTER:
                raise DecryptError("worn")
            peer.mark_seen(counter)
            return payload
        raise DecryptError("key")

    def open_from_stranger(self, data: bytes, sender: MemberId) -> bytes:
        """The payload of a datagram :meth:`is_from_stranger`: from a holder of the group key, whoever it is. Raises
        :class:`DecryptError`."""
        for key in self._keys_by_id.get(data[1], ()):
            cipher = _stranger_cipher(key, self.label, sender)
            try:
                return cipher.decrypt(_NONCE_PREFIX + data[26:34], data[34:], data[:34])
            except InvalidTag:
                continue
        raise DecryptError("key")

    # --- deriving

    def _derive(self, peer: SealPeer, group_key: bytes) -> None:
        """One key for each direction, both at once: the lower instance seals with the first half."""
        if not peer.shared:
            peer.shared = _agree(self._keys, peer.agreement)
        mine, theirs = self._keys.instance, peer.instance
        parties = mine + theirs if mine < theirs else theirs + mine
        both = _derived(group_key + peer.shared, self.label, b"rumormill 1 pair" + parties, 2 * KEY_BYTES)
        lower, upper = both[:KEY_BYTES], both[KEY_BYTES:]
        peer.key_out, peer.key_in = (lower, upper) if mine < theirs else (upper, lower)
        peer.group = group_key
        peer.sealer = peer.opener = None

    def _equip(self, peer: SealPeer) -> tuple[AESGCM, AESGCM]:
        """The ciphers of a member, to seal for it and to open what it seals; now at hand, in place of the oldest."""
        peer.sealer, peer.opener = ciphers = AESGCM(peer.key_out), AESGCM(peer.key_in)
        self._at_hand.append(peer)
        if len(self._at_hand) > AT_HAND:
            oldest = self._at_hand.popleft()
            oldest.sealer = oldest.opener = None
        return ciphers


@functools.lru_cache(maxsize=4096)
def _derived(secret: bytes, label: bytes, purpose: bytes, length: int = KEY_BYTES) -> bytes:
    """Keys for one purpose. Remembered, as agreements are."""
    return HKDF(SHA256(), length, salt=label, info=purpose).derive(secret)


@functools.lru_cache(maxsize=1024)
def _stranger_cipher(group_key: bytes, label: bytes, sender: MemberId) -> AESGCM:
    return AESGCM(_derived(group_key, label, b"rumormill 1 stranger" + sender))


_public = functools.lru_cache(maxsize=1024)(X25519PublicKey.from_public_bytes)


_agreements: dict[tuple[bytes, bytes], bytes] = {}


def _agree(keys: MemberKeys, theirs: bytes) -> bytes:
    """What two members agree on. The costly step (30 to 50 µs), remembered for as many pairs as fit: it comes out the
    same at both ends, which the simulator has in one process."""
    mine = keys.public[KEY_BYTES:]
    pair = (mine, theirs) if mine < theirs else (theirs, mine)
    known = _agreements.get(pair)
    if known is None:
        known = keys.agreement.exchange(_public(theirs))
        if len(_agreements) >= MAX_AGREEMENTS:
            del _agreements[next(iter(_agreements))]
        _agreements[pair] = known
    return known
