"""Pool policy: what operators set for a service, as last-writer-wins records.

There is one record per service and kind: canary shares, workers in maintenance, preferred zone. Records merge by the
greatest (counter, writer, checksum). The counter is logical (Lamport 1978): a writer uses one more than the highest it
has seen in any record. So a record written in knowledge of another always wins over it, whatever the clocks say. Of two
records written without knowledge of each other, all members prefer the same one. Wall time is for display.

A counter far above one's own could exhaust the counter, or freeze a policy for ever.
:meth:`PolicyTable.jumps_too_far` finds such a counter. Records that a newcomer receives while it joins are exempt,
because its own counter is zero. All other limits of policies are in this file too.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import msgspec

from rumormill.membership.record import MAX_NAME_BYTES, MemberId, MonotonicCounter

ALL_BASIS_POINTS = 10_000
"""All keys, in basis points."""
MAX_COUNTER_JUMP = 2**20
"""How far a counter may be above the highest that is held."""
MAX_POLICIES = 512
"""Records held at most. More are refused and counted."""
MAX_POLICY_BYTES = 1100
"""Longest encoded record accepted from others: members of earlier versions write records of this length."""
MAX_OWN_POLICY_BYTES = 1080
"""Longest record written here: it must fit one datagram with its signature and an envelope."""
SIGNATURE_BYTES = 64

Text = Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_BYTES)]
BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=ALL_BASIS_POINTS)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""Since 1970, by the writer's wall clock."""


class InvalidPolicy(ValueError):
    """A policy that no well-behaved member writes. The message says what is wrong."""


class Share(msgspec.Struct, frozen=True, array_like=True):
    """A candidate release, and its share of the keys in basis points."""

    release: Label
    share: BasisPoints


class Rollout(msgspec.Struct, frozen=True, array_like=True):
    """The progress of a guided rollout. It is part of the policy, so it outlives the process that guides it."""

    release: Label
    steps: Annotated[list[BasisPoints], msgspec.Meta(min_length=1, max_length=32)]
    hold: Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)]
    """Seconds for which each step must pass its gates."""
    gates: Annotated[list[Annotated[str, msgspec.Meta(max_length=400)]], msgspec.Meta(max_length=16)]
    prometheus: Annotated[str, msgspec.Meta(max_length=256)]
    """The Prometheus server that metric gates query; empty for none."""
    figures: Annotated[str, msgspec.Meta(max_length=256)]
    """A path or URL of the client's own metrics; empty for none."""
    position: Annotated[int, msgspec.Meta(ge=0, lt=32)]
    """The index of the current step."""
    since: Milliseconds
    """When the current step began."""
    state: Literal["running", "done", "failed", "aborted"]
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


class CanaryPolicy(msgspec.Struct, frozen=True, array_like=True, tag="canary"):
    """Shares in the order in which the releases became candidates. The ring stacks them in this order."""

    shares: Annotated[list[Share], msgspec.Meta(max_length=32)]
    rollout: Rollout | None = None


class Maintenance(msgspec.Struct, frozen=True, array_like=True, tag="maintenance"):
    """Workers that take no new work. The sidecar of each reports *draining* while it is named here."""

    workers: Annotated[list[Label], msgspec.Meta(max_length=64)]


class ZonePreference(msgspec.Struct, frozen=True, array_like=True, tag="zone"):
    """The preferred zone of callers that name no zone themselves; empty for none."""

    zone: Annotated[str, msgspec.Meta(max_length=64)]


Body = CanaryPolicy | Maintenance | ZonePreference
Kind = Literal["canary", "maintenance", "zone"]


class PolicyRecord(msgspec.Struct, frozen=True, array_like=True):
    """One policy as it crosses the wire (a msgpack array in this order)."""

    service: Text
    counter: MonotonicCounter
    writer: Label
    """The member it was written at."""
    at: Milliseconds
    """For display only."""
    body: Body

    @property
    def kind(self) -> Kind:
        match self.body:
            case CanaryPolicy():
                return "canary"
            case Maintenance():
                return "maintenance"
            case ZonePreference():
                return "zone"


class SignedPolicy(msgspec.Struct, frozen=True):
    """A record with its bytes, its signature, and the values by which it is merged and named."""

    record: PolicyRecord
    encoded: bytes
    signature: bytes
    """Ed25519, by the policy key; empty where the pool has no policy key."""
    checksum: int
    """64 bits over record and signature."""
    member_id: MemberId
    """8 bytes that name (kind, service). Broadcasts and the delta sync use them like the id of a member."""

    @property
    def stamp(self) -> int:
        """40 bits of the checksum. In a delta sync they take the place of a member's incarnation."""
        return self.checksum & (2**40 - 1)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(PolicyRecord)


def policy_id(kind: Kind, service: str) -> MemberId:
    """The id of the policy of one kind for one service."""
    return MemberId(hashlib.blake2b(f"{kind}\0{service}".encode(), digest_size=8, person=b"policy").digest())


def encode_policy(record: PolicyRecord) -> bytes:
    """The bytes of a record. Raises :class:`InvalidPolicy` for a record that no member accepts."""
    _validate(record)
    encoded = _encoder.encode(record)
    if len(encoded) > MAX_OWN_POLICY_BYTES:
        raise InvalidPolicy(f"it takes {len(encoded)} bytes; a policy may take {MAX_OWN_POLICY_BYTES}")
    return encoded


@functools.lru_cache(maxsize=4096)
def policy_untrusted(encoded: bytes, signature: bytes) -> SignedPolicy:
    """Decode a policy from an untrusted source. Raises only :class:`InvalidPolicy`. Does not check the signature."""
    if len(encoded) > MAX_POLICY_BYTES:
        raise InvalidPolicy(f"it is longer than {MAX_POLICY_BYTES} bytes")
    try:
        record = _decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(str(error)) from None
    _validate(record)
    content = hashlib.blake2b(encoded + signature, digest_size=8, person=b"policy").digest()
    return SignedPolicy(
        record, encoded, signature, int.from_bytes(content, "big"), policy_id(record.kind, record.service)
    )


def _validate(record: PolicyRecord) -> None:
    try:
        msgspec.convert(msgspec.to_builtins(record), PolicyRecord)
    except msgspec.ValidationError as error:
        raise InvalidPolicy(str(error)) from None
    for what, text in (("service", record.service), ("writer", record.writer)):
        if not text.isprintable() or len(text.encode()) > MAX_NAME_BYTES:
            raise InvalidPolicy(f"the {what} cannot be printed, or is longer than {MAX_NAME_BYTES} bytes")
    match record.body:
        case CanaryPolicy(shares, rollout):
            _validate_shares(shares)
            if rollout is not None and rollout.position >= len(rollout.steps):
                raise InvalidPolicy("the rollout's step index is out of range")
        case Maintenance(workers):
            _validate_names("worker", workers)
        case ZonePreference(zone):
            _validate_names("zone", [zone])


def _validate_shares(shares: list[Share]) -> None:
    _validate_names("release", [share.release for share in shares])
    total = sum(share.share for share in shares)
    if total > ALL_BASIS_POINTS:
        raise InvalidPolicy(f"the shares add up to {total / 100:g} %, which is more than there is")


def _validate_names(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise InvalidPolicy(f"a {what} is named twice")
    for name in names:
        if not name.isprintable():
            raise InvalidPolicy(f"a {what} holds characters that cannot be printed")


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
