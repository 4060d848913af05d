"""The words for what a change of the table means to people, and whether callers must learn of it at once."""

from __future__ import annotations

from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, Record
from rumormill.membership.table import MemberChange

SENTENCES = {
    "joined": "joined",
    "restarted": "is back in a new life",
    "suspected": "is suspected",
    "evicted": "evicted",
    "left": "left",
    "returned": "is back: it refuted its death",
    "refuted": "refuted the suspicion",
    "updated": "changed what it says of its worker",
}

SERVED = "has served its probation"


def self_reported_changes(change: MemberChange, me: MemberState) -> dict[str, str]:
    """What is new of what a member says of itself beside its readiness, in words, by the kind of event."""
    before, after = change.before, change.after
    if after is None or after.record is None or not after.present or after.pending:
        return {}
    former = before.record if before is not None and change.same_instance else None
    told = {}
    if words := _of_probation(former, after.record):
        told["probation"] = words
    if me.record and after.record.period != me.record.period and (not former or former.period != after.record.period):
        told["period"] = _of_period(after.record.period, me.record.period)
    return told


def _of_probation(former: Record | None, record: Record) -> str | None:
    """When it begins, is made longer, and is over. Said again from time to time, it is always shorter."""
    then = former.probation if former else 0
    if record.probation > then:
        return f"has flapped and is on probation for {record.probation / 1000:.0f} s: it takes no new work"
    return SERVED if then and not record.probation else None


def _of_period(theirs: int, ours: int) -> str:
    """That a member keeps another time than we do. Milliseconds."""
    return (
        f"sends a heartbeat every {theirs / 1000:g} s, this member every {ours / 1000:g} s: give all members one "
        "--period, or the quicker ask in vain and the slower are evicted late"
    )


def event_kind(change: MemberChange) -> str | None:
    """The word for what one change means; None where it is of no interest to people."""
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
    """Whether callers must learn of it at once: a new life, a resurrection, or another readiness."""
    before, after = change.before, change.after
    if before is None or after is None or before.instance != after.instance:
        return before is not None
    if before.present != after.present or before.pending != after.pending:
        return True
    return before.record is not None and after.record is not None and before.record.readiness != after.record.readiness
