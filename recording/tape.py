"""The boundary of a Node while it is recorded: what comes out of the seal, of the signing key and of the randomness.

Datagrams are noted behind the seal: as their header, the opened payload and their tag. So a record needs no key to be
played, and holds none. What cannot be noted without showing a secret ends the segment (:attr:`Tape.cut`): the recorder
then begins another one from the state after it.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from rumormill.gossip.security.credentials import SIGNATURE_BYTES, MemberKeys, Sign
from rumormill.gossip.security.keyring import KeyRing
from rumormill.gossip.security.seal import HEADER_BYTES, STRANGER, TAG_BYTES, DecryptError, Seal
from rumormill.gossip.wire import KeyRingUpdate, UndecodablePayload, decode_untrusted
from rumormill.membership.record import MemberId

KEY_RING_UPDATE: Final = b"\x93\x50"
"""How an encoded KeyRingUpdate begins: an array of three, and its message id. It may also occur by chance."""
MAX_REMEMBERED: Final = 512
"""Sealed datagrams remembered, to recognize one that an ICMP refusal quotes."""


def placeholder(key: bytes) -> bytes:
    """What stands for a group key in a record: 32 bytes that say nothing of it, the same in every member's record."""
    return hashlib.sha256(b"rumormill placeholder" + key).digest()


class Tape:
    """What has crossed the boundary since the recorder last took it off."""

    __slots__ = ("cut", "older", "opened", "plaintexts", "signatures", "tags", "tokens")

    def __init__(self) -> None:
        self.opened: bytes | str | None = None
        """Of the datagram that is being received: its payload, why it could not be opened, or None if nobody tried."""
        self.tags = bytearray()
        """The tags of the datagrams sealed, 16 bytes each, in order."""
        self.signatures: list[bytes] = []
        self.tokens: list[bytes] = []
        """Random bytes drawn, in order."""
        self.cut = ""
        """Why what follows cannot be played from here; empty while it can."""
        self.plaintexts: dict[bytes, tuple[bytes, bytes]] = {}
        """By their tags: the latest sealed datagrams, and what a record has in place of each."""
        self.older: dict[bytes, tuple[bytes, bytes]] = {}

    def taken_opened(self) -> bytes | str | None:
        """What became of the datagram just received. The next one starts afresh."""
        opened, self.opened = self.opened, None
        return opened

    def remember(self, tag: bytes, datagram: bytes, recorded: bytes) -> None:
        """Note what a record has in place of a datagram that was sealed. Half of them are forgotten at a time."""
        if len(self.plaintexts) >= MAX_REMEMBERED:
            self.older, self.plaintexts = self.plaintexts, {}
        self.plaintexts[tag] = (datagram, recorded)

    def as_recorded(self, quoted: bytes) -> bytes:
        """A datagram that a refusal quotes, the way the record has it."""
        tag = quoted[-TAG_BYTES:]
        datagram, recorded = self.plaintexts.get(tag) or self.older.get(tag, (b"", b""))
        return recorded if datagram == quoted else quoted


class RecordedTokens:
    """Random bytes, each noted. Private keys are made of such bytes: those are not noted, and end the segment."""

    __slots__ = ("_draw", "_tape")

    def __init__(self, draw: Callable[[int], bytes], tape: Tape) -> None:
        self._draw = draw
        self._tape = tape

    def __call__(self, size: int) -> bytes:
        token = self._draw(size)
        self._tape.tokens.append(token)
        return token


class RecordingSeal(Seal):
    """A seal that notes what passes through it."""

    __slots__ = ("_tape",)

    def __init__(self, tape: Tape, keyring: KeyRing | None, cluster: str, keys: MemberKeys) -> None:
        self._tape = tape
        keys.sign = _noting(keys.sign, tape)
        super().__init__(keyring, cluster, keys)

    def renewed(self, cluster: str, keys: MemberKeys) -> Seal:
        self._tape.cut = "this member took new keys"
        return RecordingSeal(self._tape, self.keyring, cluster, keys)

    def seal(self, receiver: MemberId, payload: bytes) -> bytes:
        return self._note_sealed(Seal.seal(self, receiver, payload), payload)

    def seal_for_stranger(self, receiver: MemberId, payload: bytes) -> bytes:
        return self._note_sealed(Seal.seal_for_stranger(self, receiver, payload), payload)

    def _note_sealed(self, datagram: bytes, payload: bytes) -> bytes:
        if self.keyring is not None:
            tape, tag = self._tape, datagram[-TAG_BYTES:]
            if KEY_RING_UPDATE in payload:
                payload = without_keys(payload, self.keyring)
            if self._header_start in payload:
                payload = self._without_ciphertext(payload)
            tape.tags += tag
            tape.remember(tag, datagram, datagram[:HEADER_BYTES] + payload + tag)
        return datagram

    def _without_ciphertext(self, payload: bytes) -> bytes:
        """A payload whose own ping, sealed for a third member (PingRequest), stands as the record has that ping."""
        at = payload.index(self._header_start)
        sealed = payload[at : at + payload[at - 1]]  # msgpack writes the length before it
        return payload.replace(sealed, self._tape.as_recorded(sealed))

    def open(self, data: bytes, sender: MemberId) -> bytes:
        try:
            payload = Seal.open(self, data, sender)
        except DecryptError as refusal:
            self._tape.opened = refusal.reason
            raise
        return self._note_opened(payload)

    def open_from_stranger(self, data: bytes, sender: MemberId) -> bytes:
        try:
            payload = Seal.open_from_stranger(self, data, sender)
        except DecryptError as refusal:
            self._tape.opened = refusal.reason
            raise
        return self._note_opened(payload)

    def _note_opened(self, payload: bytes) -> bytes:
        self._tape.opened = payload
        if KEY_RING_UPDATE in payload and _has_keys_untrusted(payload):
            self._tape.cut = "a key ring came in"
        return payload


def _has_keys_untrusted(payload: bytes) -> bool:
    try:
        return any(isinstance(message, KeyRingUpdate) for message in decode_untrusted(payload).messages)
    except UndecodablePayload:
        return True


def _noting(sign: Sign, tape: Tape) -> Sign:
    def noted(text: bytes) -> bytes:
        signature = sign(text)
        tape.signatures.append(signature)
        return signature

    return noted


def without_keys(payload: bytes, ring: KeyRing) -> bytes:
    """A payload with placeholders for the group keys in it."""
    for key in ring.keys:
        payload = payload.replace(key, placeholder(key))
    return payload


# --- playing


class PlayedTape:
    """What crossed the boundary, given out again in order. Raises IndexError when it is at its end.

    A tape that plays freely gives out made-up bytes in place of everything: what leaves is then not what left.
    """

    def __init__(self, tags: bytes, signatures: list[bytes], tokens: list[bytes], *, free: bool = False) -> None:
        self._free = random.Random(0) if free else None
        self._tags = deque(tags[at : at + TAG_BYTES] for at in range(0, len(tags), TAG_BYTES))
        self._signatures = deque(signatures)
        self._tokens = deque(tokens)
        self.opened: bytes | str | None = None
        """As in :class:`Tape`, for the datagram that is being received."""

    @staticmethod
    def payload_of(datagram: bytes, ring: KeyRing | None) -> bytes:
        """The payload of an opened datagram as the record has it."""
        return datagram[HEADER_BYTES:] if ring is None else datagram[HEADER_BYTES:-TAG_BYTES]

    def sign(self, _text: bytes) -> bytes:
        return self._free.randbytes(SIGNATURE_BYTES) if self._free else self._signatures.popleft()

    def tag(self) -> bytes:
        return self._free.randbytes(TAG_BYTES) if self._free else self._tags.popleft()

    def token(self, size: int) -> bytes:
        if self._free:
            return self._free.randbytes(size)
        token = self._tokens.popleft()
        if len(token) != size:
            raise IndexError("another number of random bytes was drawn")
        return token


class PlayedRing(KeyRing):
    """A key ring of placeholders that goes by the names of the real keys."""

    __slots__ = ("_digests", "_ids", "_names")
    _digests: dict[int, bytes]
    _ids: tuple[int, ...]
    _names: tuple[str, ...]

    def __init__(
        self, keys: tuple[bytes, ...], names: tuple[str, ...], ids: tuple[int, ...], digests: dict[int, bytes]
    ) -> None:
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "_ids", ids)
        object.__setattr__(self, "_digests", digests)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def ids(self) -> tuple[int, ...]:
        return self._ids

    def digest(self, version: int) -> bytes:
        return self._digests[version]

    def with_primary(self, key: bytes) -> KeyRing:
        at = self.keys.index(key)
        order = [at, *(other for other in range(len(self.keys)) if other != at)]
        return PlayedRing(
            tuple(self.keys[i] for i in order),
            tuple(self._names[i] for i in order),
            tuple(self._ids[i] for i in order),
            self._digests,
        )


class PlayedSeal(Seal):
    """Seals and opens by what was noted, without any cipher."""

    __slots__ = ("_played",)
    _played: PlayedTape

    @classmethod
    def restored(cls, tape: PlayedTape, attributes: dict[str, object]) -> PlayedSeal:
        """As it was when the segment began."""
        made = object.__new__(cls)
        for name, value in attributes.items():
            object.__setattr__(made, name, value)
        made._played = tape
        return made

    def set_keyring(self, keyring: KeyRing | None) -> None:
        self.keyring = keyring
        if keyring is not None:
            self._keys_by_id = {key_id: [] for key_id in keyring.ids}
            self.key_id = keyring.ids[0]
            self._header_start = self._header_start[:1] + bytes((self.key_id,)) + self._header_start[2:]

    def seal(self, receiver: MemberId, payload: bytes) -> bytes:
        if self.keyring is None:
            return super().seal(receiver, payload)
        self.peers[receiver]
        self.counter = counter = self.counter + 1
        return self._header_start + receiver + counter.to_bytes(8, "big") + payload + self._played.tag()

    def seal_for_stranger(self, receiver: MemberId, payload: bytes) -> bytes:
        if self.keyring is None:
            return super().seal_for_stranger(receiver, payload)
        return self._header(STRANGER, receiver) + payload + self._played.tag()

    def open(self, data: bytes, sender: MemberId) -> bytes:
        if self.keyring is None:
            return super().open(data, sender)
        payload = self._opened()
        self.peers[sender].mark_seen(int.from_bytes(data[26:34], "big"))
        return payload

    def open_from_stranger(self, data: bytes, sender: MemberId) -> bytes:  # noqa: ARG002 — the seal's signature
        return data[HEADER_BYTES:] if self.keyring is None else self._opened()

    def _opened(self) -> bytes:
        match self._played.opened:
            case bytes(payload):
                return payload
            case str(reason):
                raise DecryptError(reason)
        raise IndexError("a datagram is opened that was not opened before")
