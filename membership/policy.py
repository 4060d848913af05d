"""Pool policy: what operators say of a service, as last-writer-wins records whose bodies are opaque here.

There is one record per service and kind. What a kind means, and what its body may hold, is the business of whoever
reads it (discovery/schema/policy_bodies.py): this room and gossip carry the body as bytes. A :class:`PolicySchema`
tells gossip which bodies to refuse, so that a policy nobody could read never spreads.

Records merge by the greatest (counter, writer, checksum). The counter is logical (Lamport 1978): a writer takes one
more than the highest it has seen of any record. So a record written in knowledge of another always wins over it,
whatever the clocks say. If two records are written independently, everybody prefers the same one. Wall
time is for display.

A counter far above a member's own could exhaust the counter, or freeze a policy forever.
:meth:`PolicyTable.jumps_too_far` finds it. The exception is what a newcomer gets while it joins: its own counter is
still zero.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from rumormill.membership.record import MAX_NAME_BYTES, MemberId, MonotonicCounter, Signature

MAX_COUNTER_JUMP = 2**20
"""How far a record's counter may be above the highest counter held."""
MAX_POLICIES = 512
"""Most records held. Further ones are refused and counted."""
MAX_POLICY_BYTES = 1100
"""Most bytes of a record from another member: earlier versions write records as long as this."""
MAX_OWN_POLICY_BYTES = 1080
"""Most bytes of a record we write: with its signature and an envelope it must fit one datagram."""
SIGNATURE_BYTES = 64

Text = Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""Since 1970, by the writer's wall clock."""


class InvalidPolicy(ValueError):
    """A policy that no well-behaved member would write. Says what is wrong with it."""


class PolicyRecord(msgspec.Struct, frozen=True):
    """One policy, its body still encoded."""

    service: str
    counter: int
    writer: str
    """The member it was written at."""
    at: int
    """Milliseconds since 1970 by the writer's wall clock. For display only."""
    body: bytes
    """A msgpack array that begins with the kind."""

    @property
    def kind(self) -> str:
        """What the body is about ("canary"). Raises :class:`InvalidPolicy` for a body that does not say it."""
        return _kind_of(self.body)


@dataclass(frozen=True, slots=True)
class PolicySchema:
    """What gossip asks about the bodies that it carries."""

    validate: Callable[[PolicyRecord], None]
    """Raises :class:`InvalidPolicy` for a body that must not spread."""
    describe: Callable[[PolicyRecord], str]
    """One policy in words, for events."""


class PolicyEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """A record as it crosses the wire (a msgpack array in this order)."""

    service: Text
    counter: MonotonicCounter
    writer: Label
    at: Milliseconds
    body: msgspec.Raw


class _Body(msgspec.Struct, array_like=True):
    """The part of a body that every kind has."""

    kind: Label


class SignedPolicy(msgspec.Struct, frozen=True):
    """A record as it is held: with its bytes, its signature, and the fields that order and identify it."""

    record: PolicyRecord
    encoded: bytes
    signature: Signature
    """Ed25519 by the policy key; empty in a pool without one."""
    checksum: int
    """64 bits over record and signature."""
    member_id: MemberId
    """8 bytes that name (kind, service). Broadcasts and the delta sync use them as they use a member's id."""

    @property
    def stamp(self) -> int:
        """40 bits of the checksum. A sync shows them for a policy where it shows the incarnation of a member."""
        return self.checksum & (2**40 - 1)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(PolicyEnvelope)
_body_decoder = msgspec.msgpack.Decoder(_Body)


def policy_id(kind: str, service: str) -> MemberId:
    """The 8 bytes that name the policy of one kind for one service."""
    return MemberId(hashlib.blake2b(f"{kind}\0{service}".encode(), digest_size=8, person=b"policy").digest())


def encode_policy(record: PolicyRecord) -> bytes:
    """The bytes of a record. Raises :class:`InvalidPolicy` where other members would refuse it; reads no body."""
    encoded = _encoder.encode((record.service, record.counter, record.writer, record.at, msgspec.Raw(record.body)))
    _decode(encoded)
    if len(encoded) > MAX_OWN_POLICY_BYTES:
        raise InvalidPolicy(f"it takes {len(encoded)} bytes, but a policy may take {MAX_OWN_POLICY_BYTES}")
    return encoded


@functools.lru_cache(maxsize=4096)
def policy_untrusted(encoded: bytes, signature: Signature) -> SignedPolicy:
    """Bytes from anywhere to a policy. Raises :class:`InvalidPolicy`, nothing else; checks no signature and no body."""
    if len(encoded) > MAX_POLICY_BYTES:
        raise InvalidPolicy(f"it is longer than {MAX_POLICY_BYTES} bytes")
    record = _decode(encoded)
    content = hashlib.blake2b(encoded + signature, digest_size=8, person=b"policy").digest()
    return SignedPolicy(
        record, encoded, signature, int.from_bytes(content, "big"), policy_id(record.kind, record.service)
    )


def _decode(encoded: bytes) -> PolicyRecord:
    """Raises :class:`InvalidPolicy`."""
    try:
        read = _decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(str(error)) from None
    record = PolicyRecord(read.service, read.counter, read.writer, read.at, bytes(read.body))
    for field, text in (("service", record.service), ("writer", record.writer), ("kind", record.kind)):
        if not text.isprintable() or len(text.encode()) > MAX_NAME_BYTES:
            raise InvalidPolicy(f"the {field} cannot be printed, or is longer than {MAX_NAME_BYTES} bytes")
    return record


@functools.lru_cache(maxsize=4096)
def _kind_of(body: bytes) -> str:
    try:
        return _body_decoder.decode(body).kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(str(error)) from None


def precedence(policy: SignedPolicy) -> tuple[int, str, int]:
    """The key of the total order by which policies merge."""
    return (policy.record.counter, policy.record.writer, policy.checksum)


def merge(held: SignedPolicy | None, heard: SignedPolicy) -> SignedPolicy:
    """The policy to hold after receiving ``heard``: the greater of the two by :func:`precedence`."""
    if held is None or precedence(heard) > precedence(held):
        return heard
    return held


class PolicyTable:
    """All policies that one member holds.

    Calls ``toggle_checksum`` for each policy that is added or removed, to keep the table's checksums.
    """

    def __init__(self, toggle_checksum: Callable[[MemberId, int], None], max_policies: int = MAX_POLICIES) -> None:
        self._toggle_checksum = toggle_checksum
        self._max = max_policies
        self._held: dict[MemberId, SignedPolicy] = {}
        self.counter = 0
        """The highest counter seen. The next policy written here has one more."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[SignedPolicy]:
        """In the order in which they were first received."""
        return iter(self._held.values())

    def __contains__(self, member_id: MemberId) -> bool:
        return member_id in self._held

    def get(self, member_id: MemberId) -> SignedPolicy | None:
        return self._held.get(member_id)

    def jumps_too_far(self, policy: SignedPolicy) -> bool:
        """Whether a policy's counter is implausibly far above every counter held."""
        return policy.record.counter > self.counter + MAX_COUNTER_JUMP

    def is_full_for(self, policy: SignedPolicy) -> bool:
        """Whether the policy is a new one and there is no room for it."""
        return policy.member_id not in self._held and len(self._held) >= self._max

    def apply(self, policy: SignedPolicy) -> bool:
        """Merge one policy; False when nothing changed. The caller checks the limits first."""
        before = self._held.get(policy.member_id)
        after = merge(before, policy)
        self.counter = max(self.counter, policy.record.counter)
        if after is before:
            return False
        if before is not None:
            self._toggle_checksum(before.member_id, before.checksum)
        self._held[after.member_id] = after
        self._toggle_checksum(after.member_id, after.checksum)
        return True
