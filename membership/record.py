"""What a member says of itself, and the words for what is known of it.

A :class:`Record` is the unit of gossip: whatever a subject says of itself travels in one, verbatim, and is told apart
from an earlier one by (generation, incarnation). Liveness is what *others* conclude about a member; readiness is what
its sidecar says of its own worker. The two are never mixed.

Every bound on what a peer may claim stands in this file: a decoded and validated record can be trusted to fit.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
from typing import Annotated, NewType
from urllib.parse import urlsplit

import msgspec

MemberId = NewType("MemberId", bytes)
"""The first 8 bytes of an instance: how members are named on the wire and in every table."""
InstanceId = NewType("InstanceId", bytes)
"""16 bytes, a hash of a member's public keys: one life of one member, and no other."""
Signature = NewType("Signature", bytes)
"""64 bytes by Ed25519, or none (:data:`NO_SIGNATURE`) where nothing is signed."""
NO_SIGNATURE = Signature(b"")

Address = tuple[str, int]
"""An IP literal (no brackets) and a UDP port. Never a host name: the core resolves nothing."""

INSTANCE_BYTES = 16
MEMBER_ID_BYTES = 8
MAX_NAME_BYTES = 128
MAX_URL_BYTES = 256
MAX_TAGS_BYTES = 512
MAX_RECORD_BYTES = 1150
"""Of others' records: members of earlier versions write them as long as this."""
MAX_OWN_RECORD_BYTES = 1000
"""Of what we write: it must share one datagram with a header, an envelope, its signature and a signed farewell."""
COUNTER_LIMIT = 2**40
"""Generations and incarnations stay below this, so no claim can run the counter out."""
MAX_PROBATION, MAX_PERIOD = 300_000, 60_000
"""Milliseconds."""
USUAL_PERIOD = 200
"""Milliseconds between the heartbeats of a member that says nothing else of them."""
MAX_WEIGHT = 1_000_000
"""In thousandths: a worker weighs at most 1000 times the normal one."""


class Liveness(enum.IntEnum):
    """What others hold a member to be. The order is the order of precedence at one incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def word(self) -> str:
        return self.name.lower()

    @property
    def present(self) -> bool:
        """Alive or suspect: a member that callers may still be sent to."""
        return self <= Liveness.SUSPECT


class Readiness(enum.IntEnum):
    """What a sidecar says of its own worker."""

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
    """A record that no well-behaved member would send. Says which field, and why."""


MonotonicCounter = Annotated[int, msgspec.Meta(ge=0, lt=COUNTER_LIMIT)]
"""A generation or an incarnation."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member's own account of itself, as it crosses the wire (a msgpack array in this order)."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
    generation: MonotonicCounter
    """Which life of this name it is: a logical number, one higher at each start."""
    incarnation: MonotonicCounter
    """Raised by the subject alone, at each change and each refutation."""
    pending: bool
    """A newcomer to a name that lives: known, but not routed until it settles."""
    keys: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    """Ed25519 and X25519 public keys, 32 bytes each; at least the second is fresh at every start."""
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
    """Where the pool has an authority: its signature over the name and the signing key."""
    probation: Annotated[int, msgspec.Meta(ge=0, le=MAX_PROBATION)] = 0
    """Milliseconds for which, from when this was written, it takes no new work because it has flapped."""
    period: Annotated[int, msgspec.Meta(ge=1, le=MAX_PERIOD)] = USUAL_PERIOD
    """Milliseconds between two of its heartbeats."""

    @property
    def instance(self) -> InstanceId:
        """Who exactly this is: 16 bytes that nobody else's keys hash to."""
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


_LAST_FIELDS = (0, USUAL_PERIOD)
"""What members of the first version say of probation and period: nothing."""


def encode_record(record: Record) -> bytes:
    """The canonical bytes of a record; equal records give equal bytes. Where the last fields are as usual they are left
    out, so that the record is one of the first version."""
    fields = msgspec.structs.astuple(record)
    left_out = len(_LAST_FIELDS)
    while left_out and fields[-left_out:] != _LAST_FIELDS[-left_out:]:
        left_out -= 1
    return _encoder.encode(fields[: len(fields) - left_out])


def validate_record(record: Record, longest: int = MAX_RECORD_BYTES) -> None:
    """Refuse what types alone cannot: byte lengths, addresses that are not literals, unprintable names, wild URLs.

    Raises :class:`InvalidRecord`; the record is not changed.
    """
    for field, text, limit in (
        ("name", record.name, MAX_NAME_BYTES),
        ("service", record.service, MAX_NAME_BYTES),
        ("url", record.url, MAX_URL_BYTES),
        ("zone", record.zone, 64),
        ("release", record.release, 64),
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
        parts.port  # noqa: B018  reading it is what checks it
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
    """Bytes from anywhere to a validated record. Raises :class:`InvalidRecord`, nothing else."""
    try:
        record = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRecord(str(error)) from None
    validate_record(record)
    return record
