"""The kind and the sentence of the event for a table change, and whether callers must learn of it at once."""

from __future__ import annotations

from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, Record
from rumormill.membership.table import MemberChange

SENTENCES = {
    "joined": "joined",
    "restarted": "restarted, with a new instance",
    "suspected": "is suspected",
    "evicted": "evicted",
    "left": "left",
    "returned": "is back: it refuted its death",
    "refuted": "refuted the suspicion",
    "updated": "changed what it says of its worker",
}

StateWords = tuple[str, str, str]
"""A member's state before and after a change, and why it has changed."""
NO_CHANGE: StateWords = ("", "", "")
PROBATION_OVER = "is no longer on probation"


def self_reported_changes(change: MemberChange, me: MemberState) -> dict[str, str]:
    """What a member newly reports of itself, other than its readiness, in words, by the kind of event."""
    before, after = change.before, change.after
    if after is None or after.record is None or not after.present or after.pending:
        return {}
    former = before.record if before is not None and change.same_instance else None
    told = {}
    if words := _describe_probation(former, after.record):
        told["probation"] = words
    if me.record and after.record.period != me.record.period and (not former or former.period != after.record.period):
        told["period"] = _describe_period(after.record.period, me.record.period)
    return told


def _describe_probation(former: Record | None, record: Record) -> str | None:
    """The start, an extension and the end of a probation. What is only repeated has become shorter."""
    then = former.probation if former else 0
    if record.probation > then:
        return f"has flapped and is on probation for {record.probation / 1000:.0f} s: it takes no new work"
    return PROBATION_OVER if then and not record.probation else None


def _describe_period(theirs: int, ours: int) -> str:
    """A member's heartbeat period differs from ours. Milliseconds."""
    return (
        f"sends a heartbeat every {theirs / 1000:g} s, this member every {ours / 1000:g} s: give all members one "
        "--period. Until then, fast members send needless pings, and slow ones are evicted late"
    )


def event_kind(change: MemberChange) -> str | None:
    """The kind of event for a change; None if it is of no interest to people."""
    before, after = change.before, change.after
    if after is None:
        return None
    match after.liveness:
        case Liveness.SUSPECT:
            return "suspected"
        case Liveness.DEAD:
            return "evicted" if before is not None else None
        case Liveness.LEFT:
            return "left" if before is not None and before.liveness is not Liveness.LEFT else None
    if before is None or before.instance != after.instance:
        return "joined" if before is None else "restarted"
    match before.liveness:
        case Liveness.DEAD | Liveness.LEFT:
            return "returned"
        case Liveness.SUSPECT:
            return "refuted"
    return "updated" if changes_routing(change) else None


def changes_routing(change: MemberChange) -> bool:
    """Whether callers must learn of a change at once: a new instance, a return, or another readiness."""
    before, after = change.before, change.after
    if before is None or after is None or before.instance != after.instance:
        return before is not None
    if before.present != after.present or before.pending != after.pending:
        return True
    return before.record is not None and after.record is not None and before.record.readiness != after.record.readiness


def state_words(change: MemberChange, why: str) -> StateWords:
    """The states before and after a change, for people and programs. Those of another run of the member do not count as
    before."""
    before = change.before if change.same_instance else None
    old, new = _describe_state(before), _describe_state(change.after)
    return (old, new, why) if old != new else NO_CHANGE


def _describe_state(member: MemberState | None) -> str:
    if member is None:
        return ""
    if member.record is None or not member.present:
        return member.liveness.word
    return f"{member.liveness.word}, {member.record.readiness.word}"
