"""What a member says of itself, and the states that others give it.

A :class:`Record` is the unit of gossip. Everything a subject says of itself travels in its record, unchanged;
(generation, incarnation) tells a later record from an earlier one. Liveness is what *others* conclude about a member.
Readiness is what its sidecar says of its own worker. The two are never mixed.

Every limit on what a peer may claim is in this file. A decoded and validated record keeps these limits.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from typing import Annotated, NewType
from urllib.parse import urlsplit

import msgspec

MemberId = NewType("MemberId", bytes)
"""The first 8 bytes of an instance. Messages and tables name members by it."""
InstanceId = NewType("InstanceId", bytes)
"""16 bytes, a hash of a member's public keys. It names one instance of one member."""
Signature = NewType("Signature", bytes)
"""An Ed25519 signature of 64 bytes, or empty (:data:`NO_SIGNATURE`) where nothing is signed."""
NO_SIGNATURE = Signature(b"")

Address = tuple[str, int]
"""An IP literal (no brackets) and a UDP port. Never a host name: the core resolves nothing."""

INSTANCE_BYTES = 16
MEMBER_ID_BYTES = 8
MAX_NAME_BYTES = 128
MAX_URL_BYTES = 256
MAX_TAGS_BYTES = 512
MAX_RECORD_BYTES = 1150
"""Longest record accepted from others: members of earlier versions write records of this length."""
MAX_OWN_RECORD_BYTES = 1000
"""Longest record written here: it shares a datagram with a header, an envelope, its signature and a signed leave."""
COUNTER_LIMIT = 2**40
"""Generations and incarnations stay below this, so no claim can exhaust the counter."""
MAX_PROBATION, MAX_PERIOD = 300_000, 60_000
"""In milliseconds."""
USUAL_PERIOD = 200
"""Milliseconds between the heartbeats of a member whose record does not state its period."""
WIRE_VERSION = 2
"""What this code speaks (docs/reference/wire.md). Members whose record states no version speak 1."""
MAX_UNREADY_BYTES = 120
MAX_WEIGHT = 1_000_000
"""In thousandths: a worker weighs at most 1000 times the normal one."""


class Liveness(enum.IntEnum):
    """What others conclude about a member. The order is the precedence within one incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def present(self) -> bool:
        """Alive or suspect: callers may still be sent to this member."""
        return self <= Liveness.SUSPECT


class Readiness(enum.IntEnum):
    """What a sidecar reports about its own worker."""

    STARTING = 0
    PASSING = 1
    WARNING = 2
    CRITICAL = 3
    DRAINING = 4

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def routable(self) -> bool:
        """Passing and warning workers are in the ring; the others take no new work."""
        return self in (Readiness.PASSING, Readiness.WARNING)


class InvalidRecord(ValueError):
    """A record that no well-behaved member sends. The message names the field and the reason."""


MonotonicCounter = Annotated[int, msgspec.Meta(ge=0, lt=COUNTER_LIMIT)]
"""A generation or an incarnation."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one member says of itself, as it is on the wire: a msgpack array in this order."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
    generation: MonotonicCounter
    """Which instance of this name it is: a logical number that rises by one at each start."""
    incarnation: MonotonicCounter
    """Only the subject raises it, at each change and each refutation."""
    pending: bool
    """The name is still held by another live member: this one is known but not routed until it settles."""
    keys: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    """Ed25519 and X25519 public keys, 32 bytes each. At least the second is new at every start."""
    host: Annotated[str, msgspec.Meta(max_length=45)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    service: Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)]
    url: Annotated[str, msgspec.Meta(max_length=MAX_URL_BYTES)]
    """Where callers reach the worker."""
    zone: Annotated[str, msgspec.Meta(max_length=64)] = ""
    release: Annotated[str, msgspec.Meta(max_length=64)] = ""
    weight: Annotated[int, msgspec.Meta(ge=0, le=MAX_WEIGHT)] = 1000
    """In thousandths of a normal worker."""
    readiness: Readiness = Readiness.STARTING
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    certificate: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    """The authority's signature over the name and the signing key; empty where the pool has no authority."""
    probation: Annotated[int, msgspec.Meta(ge=0, le=MAX_PROBATION)] = 0
    """Milliseconds, from when the record was written, for which it takes no new work because it flapped."""
    period: Annotated[int, msgspec.Meta(ge=1, le=MAX_PERIOD)] = USUAL_PERIOD
    """Milliseconds between its heartbeats."""
    wire: Annotated[int, msgspec.Meta(ge=1, lt=128)] = 1
    """The highest wire version that it speaks. Messages of a later version are not sent to it."""
    unready: Annotated[str, msgspec.Meta(max_length=MAX_UNREADY_BYTES)] = ""
    """Why its worker takes no new work, in its sidecar's words; empty if it does."""
    endpoint: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """The port of its discovery endpoint at ``host``; 0 if others cannot reach it there."""

    @property
    def instance(self) -> InstanceId:
        """The hash of this member's keys. No other keys have the same hash."""
        return instance_of(self.keys)

    @property
    def address(self) -> Address:
        return (self.host, self.port)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Record)


def instance_of(keys: bytes) -> InstanceId:
    """The first 16 bytes of SHA-256 over a member's public keys."""
    return InstanceId(hashlib.sha256(keys).digest()[:INSTANCE_BYTES])


def member_id_of(instance: InstanceId) -> MemberId:
    """The short form of an instance."""
    return MemberId(instance[:MEMBER_ID_BYTES])


_LAST_FIELDS = (0, USUAL_PERIOD, 1, "", 0)
"""The defaults of the fields from ``probation`` on, which records of earlier versions do not have."""


def encode_record(record: Record) -> bytes:
    """The canonical bytes of a record; equal records give equal bytes.

    Trailing fields that have their defaults are left out: they would say nothing.
    """
    fields = msgspec.structs.astuple(record)
    left_out = len(_LAST_FIELDS)
    while left_out and fields[-left_out:] != _LAST_FIELDS[-left_out:]:
        left_out -= 1
    return _encoder.encode(fields[: len(fields) - left_out])


def validate_record(record: Record, longest: int = MAX_RECORD_BYTES) -> None:
    """Check what types cannot: lengths in bytes, literal IP addresses, printable names, http URLs.

    Raises :class:`InvalidRecord`. Does not change the record.
    """
    for field, text, limit in (
        ("name", record.name, MAX_NAME_BYTES),
        ("service", record.service, MAX_NAME_BYTES),
        ("url", record.url, MAX_URL_BYTES),
        ("zone", record.zone, 64),
        ("release", record.release, 64),
        ("unready", record.unready, MAX_UNREADY_BYTES),
    ):
        if len(text.encode()) > limit:
            raise InvalidRecord(f"{field} is longer than {limit} bytes")
        if not text.isprintable():
            raise InvalidRecord(f"{field} holds characters that cannot be printed")
    _validate_address(record)
    if record.url:
        _validate_url(record.url)
    if sum(len(k.encode()) + len(v.encode()) + 2 for k, v in record.tags.items()) > MAX_TAGS_BYTES:
        raise InvalidRecord(f"tags take more than {MAX_TAGS_BYTES} bytes")
    if len(encode_record(record)) > longest:
        raise InvalidRecord(f"the whole record is longer than {longest} bytes")


def _validate_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  reading the port validates it
    except ValueError as error:
        raise InvalidRecord(f"url {url!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidRecord(f"url {url!r} is neither http nor https")


def _validate_address(record: Record) -> None:
    try:
        ip = ipaddress.ip_address(record.host)
    except ValueError:
        raise InvalidRecord(f"host {record.host!r} is not an IP address") from None
    if ip.is_unspecified or ip.is_multicast:
        raise InvalidRecord(f"host {record.host} is not an address one member can be reached at")


def decode_record_untrusted(data: bytes) -> Record:
    """Decode and validate a record from an untrusted source. Raises only :class:`InvalidRecord`."""
    try:
        record = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRecord(str(error)) from None
    validate_record(record)
    return record
