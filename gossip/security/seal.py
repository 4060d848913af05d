"""Sealing and opening datagrams: every datagram is sealed, or says openly that it is not.

A header of 34 bytes is authenticated but readable: version and kind (1), key id (1), label hash (8), the ids of the
sender and the receiver (8 + 8), a counter (8). The payload follows under AES-256-GCM with a tag of 16 bytes. The group
key itself seals nothing. Every key is derived from it:

=========  ================================================================  ====================================
kind       key                                                               for
=========  ================================================================  ====================================
pair       HKDF(group key, X25519 agreement; label, both), a direction each  everything between known members
stranger   HKDF(group key; label, sender)                                    join, challenge, hello, welcome, who
plain      none                                                              everything, if no key was given
=========  ================================================================  ====================================

So nobody can seal as another member, not even a holder of the group key. The nonce is the counter, one for everything a
process sends. Instances are fresh at each start, so no nonce meets the same key twice, whatever clocks do. (A forked
process sends nothing: the transport sees to that.) Each counter is accepted once. A sender's window
(:class:`ReplayWindow`) moves only after the tag has been checked, so nobody can poison it. A header that names another
receiver was recorded for an earlier instance of this address, or is in transit to somebody else.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rumormill.gossip.security.credentials import KEY_BYTES, MemberKeys
from rumormill.gossip.security.group_key import GroupKey, shared_group_key
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.replay_window import ReplayWindow
from rumormill.membership.record import InstanceId, MemberId, instance_of, member_id_of

HEADER = struct.Struct("!BB8s8s8sQ")
_IDS, _IDS_AT = struct.Struct("8s8s"), 10
TAG_BYTES = 16
HEADER_BYTES = HEADER.size
OVERHEAD = HEADER_BYTES + TAG_BYTES
UNKNOWN_RECEIVER = MemberId(bytes(8))
"""The receiver's id in a datagram to an address whose member is not known."""

RENEW_COUNTER = 1 << 36
"""Where a member takes new keys: after two years at a thousand datagrams a second."""
LAST_COUNTER = 1 << 40
"""Where sealing and opening end: far below the 2^48 blocks at which a GCM key with fixed nonces begins to weaken."""
MAX_RETIRED = 10_000
MAX_CACHED_PEERS = 32
"""Peers whose ciphers are cached (0.8 kB each, two a peer): those we exchange heartbeats with, and the latest others.
For all other peers we keep the keys and make a cipher when needed, in 0.9 µs."""

PAIR, PLAIN, STRANGER = 0x10, 0x11, 0x12  # wire version 1 in the high nibble, kind in the low
_NONCE_PREFIX = bytes(4)


class DecryptError(Exception):
    """A datagram that is not for us, or not what it claims to be. ``reason`` is the name of a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CounterExhausted(RuntimeError):
    """This process must not seal any more under these keys. Members take new keys long before."""


def label_hash(cluster: str) -> bytes:
    """Eight bytes that stand for the cluster label in every header."""
    return hashlib.sha256(b"rumormill label" + cluster.encode()).digest()[:8]


class SealPeer(ReplayWindow):
    """What sealing needs of another member: its public key, the keys agreed with it, its replay window."""

    __slots__ = ("agreement", "group", "instance", "key_in", "key_out", "opener", "sealer", "shared")

    def __init__(self, instance: InstanceId, agreement: bytes, highest: int) -> None:
        super().__init__(highest)
        self.instance = instance
        self.agreement = agreement
        self.shared = b""
        self.opener: AESGCM | None = None
        self.sealer: AESGCM | None = None
        """The ciphers, while they are cached."""
        self.forget_keys()

    def forget_keys(self) -> None:
        """Drop what was derived from a group key."""
        self.group: GroupKey | None = None
        """The group key that the two keys are derived from."""
        self.key_in = self.key_out = b""
        self.sealer = self.opener = None


class Seal:
    """Seals what one member sends and opens what it receives.

    ``keyring`` None means plaintext: the header stays, and nothing is hidden or authenticated. A member in plaintext
    refuses sealed datagrams, and all others refuse plaintext ones.
    """

    __slots__ = (
        "_cached",
        "_header_start",
        "_keys",
        "_keys_by_id",
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
        """Members we can seal for, and whose datagrams we can open."""
        self._retired: dict[MemberId, int] = {}
        """The last counters of forgotten peers, so that their old datagrams stay refused if they come back."""
        self._cached: deque[SealPeer] = deque()
        self.accepted_kinds: tuple[int, ...] = ()
        """The kinds of header that are accepted: sealed ones, or plain ones."""
        self._keys_by_id: dict[int, list[GroupKey]] = {}
        self.set_keyring(keyring)

    def renewed(self, cluster: str, keys: MemberKeys) -> Seal:
        """A seal for another instance of this member, with the same group keys."""
        return Seal(self.keyring, cluster, keys)

    def set_keyring(self, keyring: KeyRing | None) -> None:
        """From now on all these keys open, and the primary seals. Keys that are gone leave memory.

        Datagrams that are sealed already stay as they are.
        """
        group_keys = [shared_group_key(key) for key in keyring.keys] if keyring else []
        self.keyring = keyring
        before, self._keys_by_id = self._keys_by_id, {}
        for group_key in group_keys:
            self._keys_by_id.setdefault(group_key.key_id, []).append(group_key)
        self.accepted_kinds = (PAIR, STRANGER) if keyring else (PLAIN,)
        self._primary = group_keys[0] if group_keys else None
        self.key_id = group_keys[0].key_id if group_keys else 0
        self._header_start = bytes((PAIR, self.key_id)) + self.label + self.member_id
        if any(group_key not in group_keys for keys in before.values() for group_key in keys):
            for peer in self.peers.values():
                if peer.group is not None and peer.group not in group_keys:
                    peer.forget_keys()

    # --- peers

    def add_peer(self, public: bytes) -> None:
        """Be ready to exchange datagrams with the member that has these public keys."""
        instance = instance_of(public)
        member_id = member_id_of(instance)
        if member_id not in self.peers:
            self.peers[member_id] = SealPeer(instance, public[KEY_BYTES:], self._retired.pop(member_id, 0))

    def forget(self, member_id: MemberId) -> None:
        """Forget a member whose row and tombstone are gone, except its last counter, as long as there is room."""
        peer = self.peers.pop(member_id, None)
        if peer is not None and peer.highest:
            self._retired[member_id] = peer.highest
            if len(self._retired) > MAX_RETIRED:
                del self._retired[next(iter(self._retired))]

    # --- sealing

    def seal(self, receiver: MemberId, payload: bytes) -> bytes:
        """Payload to datagram, for a peer. Raises KeyError for any other member, and :class:`CounterExhausted`."""
        primary = self._primary
        if primary is None:
            return self._header(PLAIN, receiver) + payload
        peer = self.peers[receiver]
        if peer.group is not primary:
            self._derive_keys(peer, primary)
        self.counter = counter = self.counter + 1
        if counter >= LAST_COUNTER:
            raise CounterExhausted
        count = counter.to_bytes(8, "big")
        header = self._header_start + receiver + count
        sealer = peer.sealer or self._make_ciphers(peer)[0]
        return header + sealer.encrypt(_NONCE_PREFIX + count, payload, header)

    def seal_for_stranger(self, receiver: MemberId, payload: bytes) -> bytes:
        """Payload to datagram, for a member that may not know us, or for :data:`UNKNOWN_RECEIVER`."""
        if self._primary is None:
            return self._header(PLAIN, receiver) + payload
        header = self._header(STRANGER, receiver)
        cipher = self._primary.stranger_cipher(self.label, self.member_id)
        return header + cipher.encrypt(_NONCE_PREFIX + header[26:], payload, header)

    def _header(self, kind: int, receiver: MemberId) -> bytes:
        self.counter = counter = self.counter + 1
        if counter >= LAST_COUNTER:
            raise CounterExhausted
        return HEADER.pack(kind, self.key_id, self.label, self.member_id, receiver, counter)

    # --- opening

    def claimed_ids(self, data: bytes) -> tuple[MemberId, MemberId]:
        """The sender and the receiver that a datagram claims. Neither is verified yet.

        Raises :class:`DecryptError` if it is too short, has another version, kind or pool, or a key we do not hold.
        """
        if len(data) < HEADER_BYTES:
            raise DecryptError("short")
        kind = data[0]
        if kind not in self.accepted_kinds:
            raise DecryptError("plaintext" if kind == PLAIN else "sealed" if kind in (PAIR, STRANGER) else "version")
        if data[2:10] != self.label:
            raise DecryptError("label")
        if kind != PLAIN and data[1] not in self._keys_by_id:
            raise DecryptError("unknown_key")
        return _IDS.unpack_from(data, _IDS_AT)

    @staticmethod
    def is_from_stranger(data: bytes) -> bool:
        """Whether a datagram is sealed for members that do not know each other yet."""
        return data[0] == STRANGER

    def open(self, data: bytes, sender: MemberId) -> bytes:
        """The payload of a datagram from a peer; each datagram opens once. Raises :class:`DecryptError`."""
        if self._primary is None:
            return data[HEADER_BYTES:]
        peer = self.peers[sender]
        count = data[26:34]
        counter = int.from_bytes(count, "big")
        if counter <= peer.highest and not peer.accepts(counter):
            raise DecryptError("replay")
        for key in self._keys_by_id.get(data[1], ()):
            if peer.group is not key:
                self._derive_keys(peer, key)
            opener = peer.opener or self._make_ciphers(peer)[1]
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
        """The payload of a datagram that :meth:`is_from_stranger`: its sender holds the group key, and may be anybody.

        Raises :class:`DecryptError`.
        """
        for key in self._keys_by_id.get(data[1], ()):
            cipher = key.stranger_cipher(self.label, sender)
            try:
                return cipher.decrypt(_NONCE_PREFIX + data[26:34], data[34:], data[:34])
            except InvalidTag:
                continue
        raise DecryptError("key")

    # --- deriving

    def _derive_keys(self, peer: SealPeer, group_key: GroupKey) -> None:
        """Derive one key for each direction, both at once: the lower instance seals with the first half."""
        if not peer.shared:
            peer.shared = group_key.agree(self._keys, peer.agreement)
        mine, theirs = self._keys.instance, peer.instance
        instances = mine + theirs if mine < theirs else theirs + mine
        both = group_key.pair_keys(peer.shared, self.label, instances)
        lower, upper = both[:KEY_BYTES], both[KEY_BYTES:]
        peer.key_out, peer.key_in = (lower, upper) if mine < theirs else (upper, lower)
        peer.group = group_key
        peer.sealer = peer.opener = None

    def _make_ciphers(self, peer: SealPeer) -> tuple[AESGCM, AESGCM]:
        """The ciphers to seal for a peer and to open what it seals. Caches them in place of the oldest."""
        peer.sealer, peer.opener = ciphers = AESGCM(peer.key_out), AESGCM(peer.key_in)
        self._cached.append(peer)
        if len(self._cached) > MAX_CACHED_PEERS:
            oldest = self._cached.popleft()
            oldest.sealer = oldest.opener = None
        return ciphers


MakeSeal = Callable[[KeyRing | None, str, MemberKeys], Seal]
"""Makes a seal from the group keys, the cluster's label, and a member's own keys."""
