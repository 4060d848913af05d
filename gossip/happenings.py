"""The words for what a change of the table means to people, and whether callers must learn of it at once."""

from __future__ import annotations

from rumormill.membership.record import Liveness
from rumormill.membership.table import Change

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


def event_kind(change: Change) -> str | None:
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
    return "updated" if routability_moved(change) else None


def routability_moved(change: Change) -> bool:
    """Whether callers must learn of it at once: a new life, a resurrection, or another readiness."""
    before, after = change.before, change.after
    if before is None or after is None or before.instance != after.instance:
        return before is not None
    if before.present != after.present or before.pending != after.pending:
        return True
    return before.record is not None and after.record is not None and before.record.readiness != after.record.readiness
