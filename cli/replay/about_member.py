"""What the records of an incident say about one member: the datagrams that bear on it, and why it was evicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rumormill.gossip.wire import (
    Alive,
    AnyMessage,
    Dead,
    IndirectAck,
    Leave,
    PingRequest,
    Suspect,
    VoteMessage,
)
from rumormill.membership.record import MemberId
from rumormill.recording.incident import Conclusion, Exchange, Incident

BEFORE, AFTER = 0.8, 0.15
"""Seconds shown before the first suspicion of a member and after its last eviction."""
LONGEST = 6.0
"""Seconds of one picture. An incident that took longer is shown from its beginning."""
OPENING = frozenset({"suspected", "evicted"})
"""Events that begin a member's incident."""
CLOSING = frozenset({"evicted", "refuted", "left"})
NAMES_A_MEMBER = (Suspect, Leave, VoteMessage, Dead, PingRequest, IndirectAck)


class DoubtStory(NamedTuple):
    """A stretch of time in which a member came to be doubted."""

    subject: str
    begin: float
    end: float
    """Seconds since 1970."""
    exchanges: Sequence[Exchange]
    conclusions: Sequence[Conclusion]


def doubted_members(incident: Incident) -> list[str]:
    """The members that somebody suspected or evicted; those evicted first."""
    conclusions = incident.conclusions()
    evicted = [c.event.member for c in conclusions if c.event.kind == "evicted"]
    suspected = [c.event.member for c in conclusions if c.event.kind == "suspected"]
    return list(dict.fromkeys([*evicted, *suspected]))


def story_of(incident: Incident, subject: str) -> DoubtStory | None:
    """The first time the member was doubted, told to its end. None if nobody doubted it."""
    about = [c for c in incident.conclusions() if c.event.member == subject]
    first = next((c.at for c in about if c.event.kind in OPENING), None)
    if first is None:
        return None
    within = [c for c in about if first <= c.at <= first + LONGEST]
    last = max((c.at for c in within if c.event.kind in CLOSING), default=first)
    begin, end = first - BEFORE, last + AFTER
    exchanges = [each for each in incident.exchanges(begin, end) if bears_on(incident, each, subject)]
    return DoubtStory(subject, begin, end, exchanges, [c for c in about if begin <= c.at <= end])


def bears_on(incident: Incident, exchange: Exchange, subject: str) -> bool:
    """Whether a datagram is from or to the member, or says something of it."""
    if subject in (exchange.sender, exchange.receiver):
        return True
    return any(
        incident.name_of(MemberId(m.subject)) == subject for m in exchange.messages if isinstance(m, NAMES_A_MEMBER)
    )


def told(incident: Incident, message: AnyMessage) -> str:
    """A message in words."""
    kind = type(message).__name__
    if isinstance(message, NAMES_A_MEMBER):
        return f"{kind} about {incident.name_of(MemberId(message.subject))}"
    return "a member's record" if isinstance(message, Alive) else kind


def explanations(story: DoubtStory) -> list[str]:
    """For each member that evicted the subject: what it last heard of it, and what was sent to it in vain since."""
    lines = []
    for conclusion in story.conclusions:
        if conclusion.event.kind != "evicted":
            continue
        observer = conclusion.observer
        direct = [e for e in story.exchanges if (e.sender, e.receiver) == (story.subject, observer)]
        heard = [e.received for e in direct if e.received is not None and e.received <= conclusion.at]
        since = max(heard, default=story.begin)
        lost = [e for e in direct if e.received is None and e.sent is not None and since < e.sent < conclusion.at]
        ago = f"{'' if heard else 'more than '}{conclusion.at - since:.3f} s"
        line = f"{observer} had last heard {story.subject} {ago} before: {conclusion.event.text}."
        if lost:
            line += f" {len(lost)} datagrams to it were lost meanwhile; any of them would have saved {story.subject}."
        lines.append(line)
    return lines
