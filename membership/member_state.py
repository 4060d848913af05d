"""One row of the table, and the rule by which two accounts of a member become one.

The rule (:func:`merge`) is a maximum over a total order, so it is commutative, associative and idempotent by
construction: any two members that have heard the same claims, in any order and however often, hold the same row.

=================  ==================================================================================================
generation         a later life of a name replaces an earlier one
instance           two lives of one generation: everybody must prefer the same one
incarnation        a later account by the same subject replaces an earlier one, whatever was claimed about that
liveness           left > dead > suspect > alive: at one incarnation a verdict only gets worse
checksum           two records of one incarnation: an honest subject never writes them, but the order must be total
=================  ==================================================================================================

Only the subject raises its incarnation, so only it can overturn a verdict. Whether a death deserves to be believed (it
is only as good as its votes) is decided before anything is merged; see rumormill.gossip.lifecycle.membership_updates.
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
"""To look a member of an enum up costs as much as a call, in Python 3.11."""


class MemberState(msgspec.Struct, frozen=True, gc=False):
    """What is known of one life of a name. Rows are immutable and shared freely."""

    name: str
    generation: int
    instance: InstanceId
    member_id: MemberId
    """The first 8 bytes of the instance: how members are named on the wire."""
    incarnation: int
    liveness: Liveness
    pending: bool
    checksum: int
    """64 bits over the encoded record; 0 for a tombstone without one."""
    record: Record | None
    encoded: bytes
    """The record exactly as its subject wrote it; empty for a tombstone without one."""
    address: Address | None
    signature: Signature = NO_SIGNATURE
    """The subject's, over the record."""
    leave_signature: Signature = NO_SIGNATURE
    """The subject's signature over its departure, where it left."""

    @property
    def present(self) -> bool:
        """Alive or suspect."""
        return self.liveness <= SUSPECT

    @property
    def draining(self) -> bool:
        """Whether its subject has said that it takes no new work, and so that its end is no surprise."""
        return self.record is not None and self.record.readiness is Readiness.DRAINING

    @property
    def life(self) -> tuple[int, InstanceId]:
        """Which life of the name this is; greater is later."""
        return (self.generation, self.instance)

    def with_liveness(self, liveness: Liveness) -> MemberState:
        """The same account under another verdict."""
        if liveness is self.liveness:
            return self
        return msgspec.structs.replace(self, liveness=liveness)

    def with_leave(self, incarnation: int, leave_signature: Signature) -> MemberState:
        """The row after its subject left, which it may say at a later incarnation than the one known here."""
        return msgspec.structs.replace(
            self, liveness=Liveness.LEFT, incarnation=incarnation, leave_signature=leave_signature
        )


@functools.lru_cache(maxsize=16384)
def member_state_of_record_untrusted(encoded: bytes, signature: Signature = NO_SIGNATURE) -> MemberState:
    """An encoded record, from anywhere, to the alive row it describes. Whether the signature is good is not checked.

    Raises :class:`~rumormill.membership.record.InvalidRecord`. A pure function: the same bytes keep coming (a record is
    gossiped by everyone who learns of it), so results are remembered.
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
    """A dead or departed life that is known by name only."""
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
    """The total order rows merge by."""
    return (row.generation, row.instance, row.incarnation, row.liveness, row.checksum)


def merge(held: MemberState | None, heard: MemberState) -> MemberState:
    """What to hold after hearing: the greater of the two by :func:`precedence`."""
    if held is None or precedence(heard) > precedence(held):
        return heard
    return held
