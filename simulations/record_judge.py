"""Judges records of a real pool by the invariants of the lab.

The records of all members are played side by side on their common time line. Nobody knows what the network did, who was
frozen or how a clock was wrong. So the invariants that need this truth are left out: false-eviction, departure,
load-origin and one-view. A member without a record cannot be refuted: it may have sent what others say that it sent,
and its votes count as true.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from rumormill.gossip import Node
from rumormill.membership.policy import PolicySchema
from rumormill.membership.record import InstanceId, MemberId
from rumormill.recording.incident import Incident, Passage, PlayedSegment
from rumormill.recording.player import Player
from rumormill.simulations.ground_truth import GroundTruth
from rumormill.simulations.invariants import InvariantViolation, MemberInvariants, ObservedProcess, ProcessRegistry
from rumormill.simulations.scheduler import SECOND, microseconds
from rumormill.simulations.table_invariants import check_node, check_policies, check_policy_order
from rumormill.simulations.table_observer import TableObserver

PERIODS_BEFORE = 20
"""Periods before its first segment for which a member is taken to have heard nobody. The record does not say."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold in the records."""

    at: float
    """Seconds since 1970."""
    invariant: str
    text: str


@dataclass(slots=True)
class RecordedHost:
    """The machine of a member. Little is known of it."""

    key: str
    node: Any = None
    leaving: bool = False
    left_at: int = 0
    was_impaired: bool = True
    clock_jumped: bool = False


class AbsentProcess(ObservedProcess):
    """A process without a record: it may have reached any version."""

    __slots__ = ()

    def newest_version(self, instance: InstanceId) -> tuple[int, int]:  # noqa: ARG002
        return (1 << 64, 1 << 64)


class RecordedProcesses(ProcessRegistry):
    """The processes of a pool of which some have no record."""

    def __init__(self) -> None:
        super().__init__()
        self._absent: dict[bytes, AbsentProcess] = {}

    def by_instance(self, instance: InstanceId) -> ObservedProcess | None:
        return super().by_instance(instance) or self._stand_in(instance)

    def by_member_id(self, member_id: MemberId) -> ObservedProcess | None:
        return super().by_member_id(member_id) or self._stand_in(member_id)

    def is_superseded(self, process: ObservedProcess) -> bool:
        return not isinstance(process, AbsentProcess) and super().is_superseded(process)

    def _stand_in(self, identity: bytes) -> AbsentProcess:
        found = self._absent.get(identity)
        if found is None:
            # Its clock counts as wrong, so no vote of it is refuted by what it heard.
            host = RecordedHost(identity.hex(), clock_jumped=True)
            found = self._absent[identity] = AbsentProcess(host, host.node, 0)
        return found


class _Step(NamedTuple):
    """One entry of a segment, to be played at this time."""

    at: float
    order: int
    segment: PlayedSegment
    place: int
    """The entry's place in the segment; -1 is the state with which the segment begins."""


class RecordJudge:
    """Plays the segments of an incident side by side, and collects what violates an invariant."""

    def __init__(self, incident: Incident, schema: PolicySchema) -> None:
        self._incident = incident
        self._schema = schema
        self._now = 0
        self._at = 0.0
        self._violations: dict[tuple[str, str], Violation] = {}
        self._registry = RecordedProcesses()
        self._running: dict[int, tuple[Player, Iterator[Any], ObservedProcess]] = {}

    def violations(self) -> list[Violation]:
        """Each violated invariant once for each member, in order of time.

        Raises :class:`~rumormill.recording.snapshot.UnreadableSnapshot`.
        """
        segments = self._incident.played
        settings = Player(segments[0].segment, self._schema).node.inspect().settings
        silence = settings.misses * microseconds(settings.period)
        self._ground_truth = GroundTruth(silence - silence // 20)
        self._settled = PERIODS_BEFORE * microseconds(settings.period)
        self._max_members = settings.max_members
        self._observer = TableObserver(
            self._registry,
            MemberInvariants(self._registry, self._ground_truth, settings),
            check_policy_order,
            now=lambda: self._now,
            run_check=self._check,
        )
        second = 0
        for step in heapq.merge(*(self._steps(order, each) for order, each in enumerate(segments))):
            self._at, self._now = step.at, microseconds(step.at)
            if self._now // SECOND != second:
                second = self._now // SECOND
                self._check_all()
            self._play(step)
        self._check_all()
        return sorted(self._violations.values(), key=lambda violation: violation.at)

    def _steps(self, order: int, played: PlayedSegment) -> Iterator[_Step]:
        offset = self._incident.offset_of(played)
        yield _Step(played.segment.now + offset, order, played, -1)
        for index, at in enumerate(played.times):
            yield _Step(at + offset, order, played, index)

    def _play(self, step: _Step) -> None:
        if step.place < 0:
            self._begin(step)
            return
        player, steps, process = self._running[step.order]
        self._before(process, step.segment.segment.entries[step.place])
        next(steps)
        if step.segment.segment.entries[step.place][0] == "sent":
            for _, data in player.outbox:
                self._ground_truth.sent(self._now, Passage(0.0, data, None).identity)

    def _begin(self, step: _Step) -> None:
        """Begin a segment. The latest process of the name goes on in it, or another one follows."""
        player = Player(step.segment.segment, self._schema)
        node, key = player.node, step.segment.record.header.name
        me = node.inspect().me
        before = self._registry.latest.get(key)
        process = ObservedProcess(RecordedHost(key), node, self._now)
        if before is not None and me.instance in before.incarnations:
            process.host = before.host
            process.incarnations, process.tombstones = before.incarnations, before.tombstones
        else:
            if before is not None:
                before.replaced = True
            self._ground_truth.process_started(key, self._now - self._settled)
        process.host.node = node
        self._registry.latest[key] = process
        self._registry.own_row_changed(process, me)
        self._observer.observe(process)
        self._running[step.order] = (player, player.steps(), process)

    def _before(self, process: ObservedProcess, entry: tuple[Any, ...]) -> None:
        """Take in what an entry says, before the Node does."""
        kind, key = entry[0], process.host.key
        if kind == "receive" and entry[-1] is True:
            identity = Passage(0.0, entry[1], None).identity
            self._ground_truth.sent(self._now, identity)  # if its sender has no record, it left just now
            self._ground_truth.received(key, self._own_id(process), self._now, identity)
        elif kind == "refusal":
            self._ground_truth.refused(key, self._own_id(process), self._now, entry[1])
        elif kind == "leave":
            process.host.leaving, process.host.left_at = True, self._now

    @staticmethod
    def _own_id(process: ObservedProcess) -> MemberId:
        return process.node.inspect().me.member_id

    def _check_all(self) -> None:
        nodes: list[Node] = []
        for _, _, process in self._running.values():
            if process.runs:
                self._check(lambda process=process: check_node(process, self._max_members))  # type: ignore[misc]
                nodes.append(process.node)
        self._check(lambda: check_policies(nodes))

    def _check(self, check: Callable[[], None]) -> None:
        try:
            check()
        except InvariantViolation as found:
            text = str(found).removeprefix(f"{found.invariant}: ")
            violation = Violation(self._at, found.invariant, text)
            self._violations.setdefault((found.invariant, text.partition(" ")[0]), violation)
