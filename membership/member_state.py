"""One row of the member table, and the rule that merges two rows of the same name.

The rule (:func:`merge`) takes the maximum of a total order. So it is commutative, associative and idempotent: two
members that have received the same claims hold the same row, whatever the order and however often they received them.

=================  ==================================================================================================
generation         a later instance of a name replaces an earlier one
instance           two instances may share a generation: all members must then prefer the same one
incarnation        a later record by the same subject replaces an earlier one, whatever was claimed about the earlier
liveness           left > dead > suspect > alive: within one incarnation, liveness only gets worse
checksum           two records of one incarnation: an honest subject never writes them, but the order must be total
=================  ==================================================================================================

Only the subject raises its incarnation, so only the subject can refute a claim about itself. Whether to believe a death
(it needs valid votes) is decided before the merge; see rumormill.gossip.lifecycle.membership_updates.
"""

from __future__ import annotations

import functools
import hashlib

import msgspec

from rumormill.membership.record import (
    NO_SIGNATURE,
    Address,
    InstanceId,
    Liveness,
    MemberId,
    Readiness,
    Record,
    Signature,
    decode_record_untrusted,
    member_id_of,
)

SUSPECT = Liveness.SUSPECT
"""A module constant, because an enum attribute lookup costs as much as a call in Python 3.11."""


class MemberState(msgspec.Struct, frozen=True, gc=False):
    """What an observer knows of one instance of a name: one row of its table. Rows are immutable and shared freely."""

    name: str
    generation: int
    instance: InstanceId
    member_id: MemberId
    """The first 8 bytes of the instance. Messages name members by it."""
    incarnation: int
    liveness: Liveness
    pending: bool
    checksum: int
    """64 bits over the encoded record; 0 for a tombstone without one."""
    record: Record | None
    encoded: bytes
    """The record as its subject encoded it; empty for a tombstone without one."""
    address: Address | None
    signature: Signature = NO_SIGNATURE
    """The subject's signature over the record."""
    leave_signature: Signature = NO_SIGNATURE
    """The subject's signature over its leave message, if it left."""

    @property
    def present(self) -> bool:
        """Whether the member is alive or suspect."""
        return self.liveness <= SUSPECT

    @property
    def draining(self) -> bool:
        """Whether the subject has announced that it takes no new work. Its end is then expected."""
        return self.record is not None and self.record.readiness is Readiness.DRAINING

    @property
    def wire(self) -> int:
        """The highest wire version that the subject speaks, as far as is known."""
        return self.record.wire if self.record is not None else 1

    @property
    def succession(self) -> tuple[int, InstanceId]:
        """Which instance of the name this is. A greater value is later."""
        return (self.generation, self.instance)

    def with_liveness(self, liveness: Liveness) -> MemberState:
        """The same row with another liveness."""
        if liveness is self.liveness:
            return self
        return msgspec.structs.replace(self, liveness=liveness)

    def with_leave(self, incarnation: int, leave_signature: Signature) -> MemberState:
        """The row after its subject left. The subject may leave at a later incarnation than the one known here."""
        return msgspec.structs.replace(
            self, liveness=Liveness.LEFT, incarnation=incarnation, leave_signature=leave_signature
        )


@functools.lru_cache(maxsize=16384)
def member_state_of_record_untrusted(encoded: bytes, signature: Signature = NO_SIGNATURE) -> MemberState:
    """Decode a record from an untrusted source to the alive row it describes. Does not check the signature.

    Raises :class:`~rumormill.membership.record.InvalidRecord`. Results are cached: every member that learns of a record
    gossips it, so the same bytes arrive many times.
    """
    record = decode_record_untrusted(encoded)
    instance = record.instance
    return MemberState(
        name=record.name,
        generation=record.generation,
        instance=instance,
        member_id=member_id_of(instance),
        incarnation=record.incarnation,
        liveness=Liveness.ALIVE,
        pending=record.pending,
        checksum=int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big"),
        record=record,
        encoded=encoded,
        address=record.address,
        signature=signature,
    )


def tombstone(name: str, generation: int, instance: InstanceId, incarnation: int, liveness: Liveness) -> MemberState:
    """A row for a dead or departed instance whose record is not known."""
    return MemberState(
        name=name,
        generation=generation,
        instance=instance,
        member_id=member_id_of(instance),
        incarnation=incarnation,
        liveness=liveness,
        pending=False,
        checksum=0,
        record=None,
        encoded=b"",
        address=None,
    )


def precedence(row: MemberState) -> tuple[int, InstanceId, int, Liveness, int]:
    """The key of the total order by which rows merge."""
    return (row.generation, row.instance, row.incarnation, row.liveness, row.checksum)


def merge(held: MemberState | None, heard: MemberState) -> MemberState:
    """The row to hold after receiving ``heard``: the greater of the two by :func:`precedence`."""
    if held is None or precedence(heard) > precedence(held):
        return heard
    return held
