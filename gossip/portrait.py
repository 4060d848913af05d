"""What the node shows of its table: frozen members for everyone, details for those who ask."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rumormill.gossip.detector import Watch
from rumormill.gossip.pings import Pings
from rumormill.gossip.state import State
from rumormill.membership.monitors import monitors_of
from rumormill.membership.record import Readiness
from rumormill.membership.row import Row
from rumormill.membership.view import Member, MemberDetail, PoolView

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


def pool_view(state: State, since: dict[bytes, tuple[object, float]]) -> PoolView:
    """Freeze the table. ``since`` remembers, between calls, when each member's liveness or readiness last changed."""
    members = []
    for row in sorted(state.table, key=lambda row: (row.name, row.pending)):
        readiness = row.record.readiness if row.record else Readiness.STARTING
        standing = (row.liveness, readiness)
        known = since.get(row.half)
        if known is None or known[0] != standing:
            known = since[row.half] = (standing, state.now)
        members.append(_member(row, readiness, known[1], state.why.get(row.half, "")))
    if len(since) > 2 * len(members) + 16:
        held = {row.half for row in state.table}
        for half in [half for half in since if half not in held]:
            del since[half]
    return PoolView(state.cluster, state.me.name, state.isolated, tuple(members))


def _member(row: Row, readiness: Readiness, since: float, why: str) -> Member:
    record = row.record
    return Member(
        name=row.name,
        generation=row.generation,
        instance=row.instance,
        incarnation=row.incarnation,
        address=row.address or ("", 0),
        service=record.service if record else "",
        url=record.url if record else "",
        zone=record.zone if record else "",
        release=record.release if record else "",
        weight=record.weight if record else 0,
        readiness=readiness,
        tags=MappingProxyType(record.tags) if record else _NO_TAGS,
        liveness=row.liveness,
        pending=row.pending,
        since=since,
        why=why,
    )


def member_details(state: State, watches: Mapping[bytes, Watch], pings: Pings, now: float) -> dict[bytes, MemberDetail]:
    """What an operator asks for, by instance."""
    details = {}
    for row in state.table:
        watch = watches.get(row.half)
        heard = state.heard.get(row.half)
        monitors = monitors_of(row.half, state.table, state.settings.monitors) if row.present else []
        details[row.instance] = MemberDetail(
            misses=watch.misses if watch else 0,
            monitored=watch is not None,
            monitors=tuple(sorted(state.name_of(half) for half in monitors)),
            last_heard=max(0.0, now - heard) if heard is not None else None,
            rtt=pings.rtt(row.half) or None,
        )
    return details
