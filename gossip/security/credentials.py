"""A member's identity: its keys, what it signs with them, and how others check that.

Every start makes new keys: Ed25519 to sign what a member says of itself, X25519 to agree on a key with each other
member. The *instance* is a hash of the two public keys. So nothing is trusted on first use: a record with other keys
belongs to another instance.

A cluster may have an authority (``rumormill keys ca``), which certifies that a signing key belongs to a name. The
signing key is then kept in a file (``rumormill keys issue NAME``), and only the other key is new at each start. Where
an authority is set, a record without its certificate is refused, and nobody can join under a name that was not issued
to them.

Every signed text begins with its type and the pool's label. So nothing signed for one purpose or pool serves another.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MEMBER_ID_BYTES, InstanceId, Record, Signature, instance_of

SIGNATURE_BYTES = 64
KEY_BYTES = 32

_RECORD, _LEFT, _VOTE = b"\x10", b"\x12", b"\x14"
"""The type at the start of a signed text: the number of the message that carries it."""
_NAME = b"rumormill name 1"
AUTHORITY_PRIVATE, AUTHORITY_PUBLIC = "authority-private", "authority-public"
"""The first words of an authority's files."""


class InvalidCredential(ValueError):
    """A key file of an authority or member that cannot be used. The text says why, and never shows the content."""


Sign = Callable[[bytes], bytes]
"""Signs a text with a member's own key. 64 bytes."""


class MemberKeys:
    """The private keys of one start of one member. Neither ``repr`` nor an error ever shows them."""

    def __init__(self, signing: Ed25519PrivateKey, agreement: X25519PrivateKey, certificate: bytes = b"") -> None:
        self.agreement = agreement
        self.certificate = certificate
        self.public = signing.public_key().public_bytes_raw() + agreement.public_key().public_bytes_raw()
        self.instance = instance_of(self.public)
        self.member_id = self.instance[:MEMBER_ID_BYTES]
        self.sign: Sign = signing.sign

    @classmethod
    def generate(cls, token_bytes: Callable[[int], bytes], credential: Credential | None = None) -> MemberKeys:
        """New keys for a new instance. A signing key that an authority has certified is kept."""
        seed = token_bytes(KEY_BYTES)
        signing = Ed25519PrivateKey.from_private_bytes(credential.seed if credential else seed)
        agreement = X25519PrivateKey.from_private_bytes(token_bytes(KEY_BYTES))
        return cls(signing, agreement, credential.certificate if credential else b"")


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """The certified signing key of a name, as ``rumormill keys issue`` writes it."""

    name: str
    seed: bytes
    certificate: bytes

    @classmethod
    def from_text(cls, text: str) -> Credential:
        """Read an identity file of three lines: name, seed, certificate. Raises :class:`InvalidCredential`."""
        lines = _lines(text)
        if len(lines) != 3:
            raise InvalidCredential(f"it has {len(lines)} lines; an identity has three")
        return cls(lines[0], _decoded(lines[1], KEY_BYTES), _decoded(lines[2], SIGNATURE_BYTES))

    def to_text(self) -> str:
        return f"{self.name}\n{_encoded(self.seed)}\n{_encoded(self.certificate)}\n"


@dataclass(frozen=True, slots=True)
class Authority:
    """The public half of a cluster's authority."""

    public: bytes

    @classmethod
    def from_text(cls, text: str) -> Authority:
        """Read its file: one line. Raises :class:`InvalidCredential`."""
        return cls(_decoded(_word_after(text, AUTHORITY_PUBLIC), KEY_BYTES))

    def to_text(self) -> str:
        return f"{AUTHORITY_PUBLIC} {_encoded(self.public)}\n"

    def certifies(self, record: Record) -> bool:
        """Whether the record's signing key was issued for its name."""
        return verify_certificate(self.public, record.certificate, record.name, record.keys[:KEY_BYTES])


class Issuer:
    """The private half of a cluster's authority. It issues names."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @classmethod
    def from_text(cls, text: str) -> Issuer:
        """Read its file: one line. Raises :class:`InvalidCredential`."""
        return cls(_decoded(_word_after(text, AUTHORITY_PRIVATE), KEY_BYTES))

    def to_text(self) -> str:
        return f"{AUTHORITY_PRIVATE} {_encoded(self._seed)}\n"

    @property
    def authority(self) -> Authority:
        return Authority(self._key.public_key().public_bytes_raw())

    def issue(self, name: str, token_bytes: Callable[[int], bytes]) -> Credential:
        """A new signing key for a name, certified."""
        seed = token_bytes(KEY_BYTES)
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return Credential(name, seed, self._key.sign(_name_text(name, public)))


def is_certified(credential: Credential, authority: Authority) -> bool:
    """Whether an authority issued this credential."""
    public = Ed25519PrivateKey.from_private_bytes(credential.seed).public_key().public_bytes_raw()
    return verify_certificate(authority.public, credential.certificate, credential.name, public)


# --- what is signed


def record_text(label: bytes, encoded: bytes) -> bytes:
    """The text that the signature of a record covers."""
    return _RECORD + label + encoded


def leave_text(label: bytes, instance: InstanceId, incarnation: int) -> bytes:
    """The text that the signature of a departure covers."""
    return _LEFT + label + instance + incarnation.to_bytes(8, "big")


def vote_text(label: bytes, voter: InstanceId, subject: InstanceId, incarnation: int, stamp: int) -> bytes:
    """The text that the signature of a vote covers: everything but its age, with whole instances."""
    return _VOTE + label + voter + subject + incarnation.to_bytes(8, "big") + stamp.to_bytes(8, "big")


def signed_by(row: MemberState, signature: Signature, text: bytes) -> bool:
    """Whether the member of a row signed a text. False if the row has no record, and so no keys."""
    if row.record is None:
        return False
    try:
        _verify_cached(row.record.keys[:KEY_BYTES], signature, text)
    except InvalidSignature:
        return False
    return True


def verify_record(row: MemberState, label: bytes, authority: Authority | None) -> bool:
    """Whether a record was signed by its subject, has usable keys, and a name that was issued to it."""
    record = row.record
    if record is None:
        return False
    try:
        _verify_record_cached(record.keys, row.signature, label, row.encoded)
    except InvalidSignature:
        return False
    return authority is None or authority.certifies(record)


@functools.lru_cache(maxsize=4096)
def _verify_record_cached(keys: bytes, signature: Signature, label: bytes, encoded: bytes) -> None:
    """Raises InvalidSignature, also for unusable keys. Valid results are cached, and hold public data only.

    In the simulator, many nodes of one process check the very same bytes objects, whose hashes Python keeps.
    """
    _verify(keys[:KEY_BYTES], signature, record_text(label, encoded))
    if not _is_usable(keys[KEY_BYTES:]):
        raise InvalidSignature


@functools.lru_cache(maxsize=4096)
def _verify_cached(public: bytes, signature: Signature, text: bytes) -> None:
    """Raises InvalidSignature. The same claims keep coming, so valid results are cached (public data only).

    A flood of invalid claims displaces nothing, because a call that raises is not cached.
    """
    _verify(public, signature, text)


def _verify(public: bytes, signature: Signature, text: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except ValueError:
        raise InvalidSignature from None


def verify_certificate(authority: bytes, certificate: bytes, name: str, public: bytes) -> bool:
    """Whether an authority issued a signing key for a name."""
    try:
        _verify_cached(authority, certificate, _name_text(name, public))
    except InvalidSignature:
        return False
    return True


_TEST_KEY = X25519PrivateKey.from_private_bytes(bytes(range(KEY_BYTES)))


def _is_usable(public: bytes) -> bool:
    """Whether an agreement key is none of the low-order points, with which every agreement is zero (RFC 7748)."""
    try:
        _TEST_KEY.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def _name_text(name: str, public: bytes) -> bytes:
    return _NAME + public + name.encode()


def _lines(text: str) -> list[str]:
    return [word for line in text.splitlines() if (word := line.split("#", 1)[0].strip())]


def _word_after(text: str, mark: str) -> str:
    """The second word of a file of one line, whose first word says what the file is."""
    lines = _lines(text)
    words = lines[0].split() if len(lines) == 1 else []
    if len(words) != 2 or words[0] != mark:
        raise InvalidCredential(f"it is not one line that begins with {mark!r}")
    return words[1]


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(word: str, size: int) -> bytes:
    try:
        data = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCredential("a line is not base64") from None
    if len(data) != size:
        raise InvalidCredential(f"a line holds {len(data)} bytes where {size} belong")
    return data
