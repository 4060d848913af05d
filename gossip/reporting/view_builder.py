"""What the node shows of its table: frozen members for everyone, details for those who ask."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from types import MappingProxyType

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.suspicion import MonitorState
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import PolicyRecord
from rumormill.membership.record import USUAL_PERIOD, InstanceId, Liveness, MemberId, Readiness
from rumormill.membership.view import Connectivity, Member, MemberDetail, PoolView

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class ViewBuilder:
    """Builds the frozen view when it is asked for. Members that did not change stay the same objects.

    At each step, only the times of changes are recorded (:meth:`note`). Building a view at each change would visit all
    members just when a death is to be broadcast. With 64 processes on one machine, the last learned of it 7 ms later.
    """

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._made_of: object = None
        self._view: PoolView | None = None
        self._members: dict[MemberId, Member] = {}
        """Members whose rows have not changed since they were built."""
        self._since: dict[MemberId, tuple[Liveness, Readiness, float]] = {}
        self._probation: dict[MemberId, tuple[int, float]] = {}
        """The checksum of the record that a probation stems from, and when the probation will be over."""

    @property
    def view_version(self) -> tuple[int, Connectivity]:
        """Equal for as long as the view would be the same."""
        return self._state.table.version, self._state.connectivity

    def note(self) -> None:
        """Record when the changed rows of the table changed."""
        table = self._state.table
        for member_id in table.touched:
            self._members.pop(member_id, None)
            row = table.get(member_id)
            if row is None:
                self._since.pop(member_id, None)
                self._probation.pop(member_id, None)
                continue
            self._note_probation(row)
            readiness, before = _readiness(row), self._since.get(member_id)
            if before is None or before[0] is not row.liveness or before[1] is not readiness:
                self._since[member_id] = (row.liveness, readiness, self._state.now)
        table.touched.clear()

    def _note_probation(self, row: MemberState) -> None:
        """A probation counts from when its record was heard, and not anew with each verdict on the member."""
        if row.record is None or not row.record.probation:
            self._probation.pop(row.member_id, None)
        elif self._probation.get(row.member_id, (0, 0.0))[0] != row.checksum:
            self._probation[row.member_id] = (row.checksum, self._state.now + row.record.probation / 1000)

    def probation_left(self, member_id: MemberId, now: float) -> float | None:
        """Seconds of a member's probation that are left; None if it is not on probation."""
        probation = self._probation.get(member_id)
        return max(0.0, probation[1] - now) if probation else None

    def _member(self, row: MemberState) -> Member:
        state, probation = self._state, self._probation.get(row.member_id)
        ends = probation[1] if probation else None
        return _member(row, self._since[row.member_id][2], state.why.get(row.member_id, ""), ends)

    def view(self) -> PoolView:
        state = self._state
        if self._view is None or self.view_version != self._made_of:
            self.note()
            members = self._members
            for row in state.table:
                if row.member_id not in members:
                    members[row.member_id] = self._member(row)
            ordered = tuple(sorted(members.values(), key=attrgetter("name", "pending")))
            self._view = PoolView(state.cluster, state.me.name, state.connectivity, ordered, self.policies())
            self._made_of = self.view_version
        return self._view

    def policies(self) -> tuple[PolicyRecord, ...]:
        records = (policy.record for policy in self._state.table.policies)
        return tuple(sorted(records, key=attrgetter("service", "kind")))


def _readiness(row: MemberState) -> Readiness:
    return row.record.readiness if row.record else Readiness.STARTING


def _member(row: MemberState, since: float, why: str, probation_ends: float | None) -> Member:
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
        readiness=_readiness(row),
        tags=MappingProxyType(record.tags) if record else _NO_TAGS,
        liveness=row.liveness,
        pending=row.pending,
        since=since,
        why=why,
        probation_ends=probation_ends,
        period=(record.period if record else USUAL_PERIOD) / 1000,
        wire=row.wire,
        unready=record.unready if record else "",
        endpoint=record.endpoint if record else 0,
    )


def member_details(
    state: NodeState, monitored: Mapping[MemberId, MonitorState], probes: Probes, view_builder: ViewBuilder, now: float
) -> dict[InstanceId, MemberDetail]:
    """Details for an operator, by instance."""
    details = {}
    for row in state.table:
        watch = monitored.get(row.member_id)
        heard = state.last_heard.get(row.member_id)
        monitors = state.voter_eligibility.monitors_of(row.member_id) if row.present else []
        details[row.instance] = MemberDetail(
            misses=watch.misses if watch else 0,
            monitored=watch is not None,
            monitors=tuple(sorted(state.name_of(member_id) for member_id in monitors)),
            last_heard=max(0.0, now - heard) if heard is not None else None,
            rtt=probes.rtt(row.member_id) or None,
            probation=view_builder.probation_left(row.member_id, now),
        )
    return details
