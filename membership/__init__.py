"""What a member knows of the others: records, the merge rule, the table with its digest, and who monitors whom.

This package is pure data and pure functions. Nothing here sends, waits, reads a clock or draws a random number. It
imports no other package of ours; gossip, discovery and the simulator build on it.
"""

from rumormill.membership.member_state import (
    MemberState,
    member_state_of_record_untrusted,
    merge,
    precedence,
    tombstone,
)
from rumormill.membership.monitors import monitors_of, subjects_of
from rumormill.membership.record import (
    Address,
    InstanceId,
    InvalidRecord,
    Liveness,
    MemberId,
    Readiness,
    Record,
    Signature,
    encode_record,
    instance_of,
    validate_record,
)
from rumormill.membership.table import MemberChange, MemberTable
from rumormill.membership.view import Connectivity, Event, Member, MemberDetail, PoolView

__all__ = [
    "Address",
    "Connectivity",
    "Event",
    "InstanceId",
    "InvalidRecord",
    "Liveness",
    "Member",
    "MemberChange",
    "MemberDetail",
    "MemberId",
    "MemberState",
    "MemberTable",
    "PoolView",
    "Readiness",
    "Record",
    "Signature",
    "encode_record",
    "instance_of",
    "member_state_of_record_untrusted",
    "merge",
    "monitors_of",
    "precedence",
    "subjects_of",
    "tombstone",
    "validate_record",
]
