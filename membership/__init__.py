"""What is known: records, rows, the merge rule, the table with its digest, and who watches whom.

Pure data and pure functions. Nothing in here sends, waits, reads a clock or draws a random number, and nothing of ours
is imported: gossip, discovery and the simulator all stand on this room.
"""

from rumormill.membership.monitors import monitors_of, subjects_of
from rumormill.membership.record import (
    Address,
    InvalidRecord,
    Liveness,
    Readiness,
    Record,
    encode_record,
    instance_of,
    validate_record,
)
from rumormill.membership.row import Row, merge, precedence, row_of_record_untrusted, tombstone
from rumormill.membership.table import Change, MemberTable
from rumormill.membership.view import Connectivity, Event, Member, MemberDetail, PoolView

__all__ = [
    "Address",
    "Change",
    "Connectivity",
    "Event",
    "InvalidRecord",
    "Liveness",
    "Member",
    "MemberDetail",
    "MemberTable",
    "PoolView",
    "Readiness",
    "Record",
    "Row",
    "encode_record",
    "instance_of",
    "merge",
    "monitors_of",
    "precedence",
    "row_of_record_untrusted",
    "subjects_of",
    "tombstone",
    "validate_record",
]
