"""The slow round-robin probe (SWIM, section 4.3).

About once a second one member is probed, in a random order that visits every member before it repeats. The probe keeps
round-trip times current. It also guarantees completeness: a member whose monitors all died with it is still found,
because a failed probe makes the prober one of its monitors for a while.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.suspicion import TEMPORARY_PERIODS, Suspicion
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId


class RoundRobinProbe:
    """At most one probe at a time: a direct ping, after a period indirect pings, after another the verdict. Times in
    seconds."""

    __slots__ = (
        "_asked_helpers",
        "_eviction",
        "_next_start",
        "_order",
        "_partition_guard",
        "_period",
        "_probes",
        "_state",
        "_suspicion",
        "deadline",
        "subject",
    )

    def __init__(
        self,
        state: NodeState,
        eviction: Eviction,
        partition_guard: PartitionGuard,
        probes: Probes,
        suspicion: Suspicion,
    ) -> None:
        self._state = state
        self._eviction = eviction
        self._partition_guard = partition_guard
        self._probes = probes
        self._suspicion = suspicion
        self._period = state.settings.period
        self._next_start = state.now + state.rng.random() * state.settings.slow_probe
        self._order: list[MemberId] = []
        """Members still to be probed in this round, the next one last."""
        self.subject: MemberId | None = None
        """The member that is being probed."""
        self.deadline = math.inf
        """When the current probe moves on. The start of the next probe is no deadline: it goes with a heartbeat."""
        self._asked_helpers = False

    def tick(self) -> None:
        """Move the current probe on, or start the next one when it is due."""
        if self.subject is not None:
            self._continue(self.subject)
        elif self._state.now >= self._next_start:
            self._start_next()

    def stop(self) -> None:
        """The subject was heard, or the probe is over."""
        self.subject, self.deadline = None, math.inf

    def restart(self) -> None:
        """After a pause of our own: the current probe is void."""
        self.stop()
        self._next_start = self._state.now + self._state.rng.random() * self._state.settings.slow_probe

    def _start_next(self) -> None:
        state = self._state
        self._next_start = state.now + state.settings.slow_probe * (0.9 + 0.2 * state.rng.random())
        if not self._order:
            self._order = [member_id for member_id in state.table.present_ids if member_id != state.me.member_id]
            state.rng.shuffle(self._order)
        while self._order:
            row = state.table.get(self._order.pop())
            if row is not None and row.present:
                self._start(row)
                return

    def _start(self, row: MemberState) -> None:
        if self._partition_guard.unheard_too_long(row.member_id):
            self._eviction.suspect(row, quietly=True)
        self._probes.ping(row)
        self.subject, self.deadline, self._asked_helpers = row.member_id, self._state.now + self._period, False

    def _continue(self, member_id: MemberId) -> None:
        state = self._state
        row = state.table.get(member_id)
        if row is None or not row.present or self._was_heard(member_id):
            self.stop()
        elif state.now >= self.deadline and not self._asked_helpers:
            if not state.cut_off:
                self._probes.indirect_ping(row)
            self.deadline, self._asked_helpers = state.now + self._period, True
        elif state.now >= self.deadline:
            self.stop()
            if not self._partition_guard.abstains:
                self._suspicion.monitor_for(row, TEMPORARY_PERIODS * self._period)

    def _was_heard(self, member_id: MemberId) -> bool:
        """Whether the subject was heard since the probe began, give or take the grace."""
        stage = 1 if self._asked_helpers else 0
        return self._state.heard_within(member_id, (stage + 1) * self._period + self._state.settings.grace)
