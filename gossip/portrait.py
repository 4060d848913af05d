"""What the node shows of its table: frozen members for everyone, details for those who ask."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rumormill.gossip.detector import Watch
from rumormill.gossip.pings import Pings
from rumormill.gossip.state import State
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import Readiness
from rumormill.membership.row import Row
from rumormill.membership.view import Member, MemberDetail, PoolView

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Portrait:
    """The frozen view, made anew when something in it changed; members that did not change stay the same objects."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._key: object = None
        self._view: PoolView | None = None
        self._members: dict[bytes, tuple[Row, Member]] = {}

    def view(self) -> PoolView:
        state = self._state
        key = (state.table.version, state.isolated)
        if self._view is None or key != self._key:
            members = {row.half: self._member_of(row) for row in state.table}
            self._members = members
            ordered = sorted((member for _, member in members.values()), key=lambda m: (m.name, m.pending))
            self._view = PoolView(state.cluster, state.me.name, state.isolated, tuple(ordered), self._policies())
            self._key = key
        return self._view

    def _policies(self) -> tuple[PolicyRecord, ...]:
        records = (policy.record for policy in self._state.table.policies)
        return tuple(sorted(records, key=lambda record: (record.service, record.kind)))

    def _member_of(self, row: Row) -> tuple[Row, Member]:
        known = self._members.get(row.half)
        if known is not None and known[0] is row:
            return known
        readiness = row.record.readiness if row.record else Readiness.STARTING
        since = self._state.now
        if known is not None and (known[1].liveness, known[1].readiness) == (row.liveness, readiness):
            since = known[1].since
        return row, _member(row, readiness, since, self._state.why.get(row.half, ""))


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
        monitors = state.seniority.monitors_of(row.half) if row.present else []
        details[row.instance] = MemberDetail(
            misses=watch.misses if watch else 0,
            monitored=watch is not None,
            monitors=tuple(sorted(state.name_of(half) for half in monitors)),
            last_heard=max(0.0, now - heard) if heard is not None else None,
            rtt=pings.rtt(row.half) or None,
        )
    return details
