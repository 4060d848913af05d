"""Suspicion: misses, the suspicion timer, verification, and the vote.

A monitor counts the heartbeats of each subject that did not come. A miss is due one period plus grace after the last
sign of life, and then each period after that.

* At the first miss the monitor verifies at once: a direct ping, and indirect pings through three helpers (probes.py).
* At the second miss it verifies again and says *suspect*, to the subject first, so that it can refute. The suspicion
  timer is the time to the third miss.
* At the third miss it votes (votes.py), and each further miss renews the vote.

Any sign of life sets the count to zero and withdraws the vote. An eviction therefore needs three consecutive misses, a
failed second path, and more than one accuser (rumormill.gossip.lifecycle.eviction decides it). Where a kernel
says that the process is gone, the misses follow within milliseconds (icmp_evidence.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rumormill.gossip.detection.heartbeat_jitter import HeartbeatJitter, adaptive_grace
from rumormill.gossip.detection.local_health import LocalHealth
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import IndirectAck
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

MAX_TEMPORARY = 8
"""Claimed deaths are verified as long as no more than this many members are monitored temporarily."""
FULL_VERIFY_MISSES = 5
"""Up to this many misses, each one is verified in full. After that, one ping is sent every so many misses."""
TEMPORARY_PERIODS = 5
"""Periods for which a member is monitored that is not, or no longer, ours to monitor."""
DEATH_CHECK_PERIODS = 10
"""Periods for which a member is monitored whose death is claimed without valid votes."""
INDIRECT_ACK_PERIODS = 5
"""Periods for which indirect acks are believed after the last direct sign of life. Longer: a lying helper delays an
eviction by as much. Shorter: more evictions of members to which our own link is bad."""

NEVER = -math.inf


class MonitorState:
    """What a monitor keeps of one subject. Times in seconds."""

    __slots__ = (
        "expires",
        "jitter",
        "last_direct",
        "last_heard",
        "last_heartbeat",
        "member_id",
        "miss_due",
        "misses",
        "misses_began",
        "refused_ping_sent",
    )

    def __init__(self, member_id: MemberId, now: float, miss_due: float, expires: float = math.inf) -> None:
        self.member_id = member_id
        self.misses = 0
        self.misses_began = now
        """When the current run of misses began."""
        self.miss_due = miss_due
        """When the next miss is counted."""
        self.last_heard = now
        self.last_direct = now
        """When the subject itself was last heard, rather than a helper that had heard it."""
        self.last_heartbeat = NEVER
        """When its latest heartbeat arrived here; :data:`NEVER` before the first."""
        self.expires = expires
        """When temporary monitoring ends. Regular monitoring is infinite: it ends when the subject has other
        monitors."""
        self.jitter = HeartbeatJitter()
        self.refused_ping_sent = NEVER
        """When the latest ping that was refused had been sent. Anything heard before that is no sign of life."""


class Suspicion:
    """Counts the misses of our subjects, verifies, suspects and votes. Times in seconds."""

    __slots__ = (
        "_eviction",
        "_local_health",
        "_partition_guard",
        "_period",
        "_probes",
        "_state",
        "_unaware",
        "_votes",
        "acted",
        "grace",
        "monitored",
        "next_due",
    )

    def __init__(
        self,
        state: NodeState,
        votes: VoteBook,
        eviction: Eviction,
        partition_guard: PartitionGuard,
        probes: Probes,
        local_health: LocalHealth,
    ) -> None:
        self._state = state
        self._votes = votes
        self._eviction = eviction
        self._partition_guard = partition_guard
        self._probes = probes
        self._local_health = local_health
        self._period, self.grace = state.settings.period, state.settings.grace
        self._unaware: list[MemberId] = []
        """Subjects that send us no heartbeats, because they cannot know that we monitor them. We ping them instead."""
        self.monitored: dict[MemberId, MonitorState] = {}
        self.next_due = math.inf
        """When the next miss is counted, or temporary monitoring ends."""
        self.acted = False
        """Whether a miss was counted or a member verified in this step: deadlines of other parts may be earlier."""

    # --- whom we monitor

    def set_subjects(self, assigned: Iterable[MemberId], unaware: list[MemberId]) -> None:
        """Monitor these members from now on. A new subject starts at zero misses, with a ping. ``unaware`` are those
        that send us no heartbeats."""
        self._unaware = unaware
        subjects = dict.fromkeys(assigned)
        if self._partition_guard.abstains:
            subjects = dict.fromkeys(member_id for member_id in subjects if member_id in self.monitored)
        self._drop_others(subjects)
        for member_id in subjects:
            if member_id not in self.monitored and (row := self._state.table.get(member_id)):
                self._begin(member_id)
                self._probes.ping(row)
        self._rearm()

    def clear_subjects(self) -> None:
        """Monitor nobody."""
        self.monitored.clear()
        self._unaware = []
        self._rearm()

    def monitor_for(self, row: MemberState, seconds: float) -> None:
        """Monitor a member temporarily, whoever its regular monitors are."""
        if row.member_id not in self.monitored:
            self._begin(row.member_id, expires=self._state.now + seconds)
            self._rearm()

    def _begin(self, member_id: MemberId, expires: float = math.inf) -> None:
        now = self._state.now
        self.monitored[member_id] = MonitorState(member_id, now, now + self._period + self.grace, expires)

    def _drop_others(self, assigned: dict[MemberId, None]) -> None:
        """Stop monitoring members that are not assigned to us, but see a run of misses to its end."""
        for monitor in list(self.monitored.values()):
            row = self._state.table.get(monitor.member_id)
            if row is not None and row.present:
                if monitor.member_id in assigned or monitor.expires < math.inf:
                    continue
                must_finish = monitor.misses > 0  # the monitor that takes over starts at zero
            else:  # dead here, but other members may wait for our vote
                must_finish = row is not None and monitor.misses > 0 and self._eviction.others_need_our_vote(row)
            if must_finish:
                monitor.expires = min(monitor.expires, self._state.now + TEMPORARY_PERIODS * self._period)
            else:
                del self.monitored[monitor.member_id]

    # --- timers

    def tick(self) -> bool:
        """Count the misses that are due. True if temporary monitoring of a member has ended."""
        ended = False
        for monitor in list(self.monitored.values()):
            if self._state.now >= monitor.expires:
                del self.monitored[monitor.member_id]
                ended = True
            elif self._state.now >= monitor.miss_due:
                self._count_miss(monitor)
        self._rearm()
        return ended

    def ping_unaware(self) -> None:
        """Once a period: ping the subjects that send us no heartbeats."""
        for member_id in self._unaware:
            if (subject := self._state.table.get(member_id)) is not None:
                self._probes.ping(subject)

    def ping_one_suspect(self) -> None:
        """Once a period: ping one suspect, which is told of the suspicion. So no member stays suspect forever: it
        refutes."""
        suspects = self._state.table.suspects
        if suspects:
            member_id = next(iter(suspects))
            suspects[member_id] = suspects.pop(member_id)
            if row := self._state.table.get(member_id):
                self._probes.ping(row)

    def verify_claimed_deaths(self) -> None:
        """Once a period: verify deaths that were claimed without valid votes and not refuted."""
        if not self._eviction.has_unconfirmed_deaths or self._partition_guard.abstains:
            return
        temporary = sum(1 for monitor in self.monitored.values() if monitor.expires < math.inf)
        for row in self._eviction.take_unconfirmed_deaths(MAX_TEMPORARY - temporary):
            self.monitor_for(row, DEATH_CHECK_PERIODS * self._period)
            self.verify(row)

    def restart(self) -> None:
        """After a pause of our own: all counts are void, and all deadlines count from now."""
        for monitor in self.monitored.values():
            monitor.misses = 0
            monitor.last_heard = self._state.now
            monitor.miss_due = self._next_miss_due(monitor)
            monitor.jitter = HeartbeatJitter()
        self._rearm()

    # --- misses

    def _count_miss(self, monitor: MonitorState) -> None:
        self.acted = True
        state = self._state
        row = state.table.get(monitor.member_id)
        if row is None:
            return
        self._add_miss(monitor)
        monitor.miss_due = state.now + self._until_next_miss(monitor)
        if row.present:
            row = self._suspect_and_verify(monitor, row)
        if monitor.misses >= state.settings.misses and self._local_health.may_judge(
            monitor.misses, monitor.misses_began
        ):
            self._eviction.vote(row)
            if not row.present:
                monitor.expires = state.now

    def _add_miss(self, monitor: MonitorState) -> None:
        monitor.misses += 1
        self._state.counters["misses"] += 1
        if monitor.misses == 1:
            monitor.misses_began = self._state.now

    def _suspect_and_verify(self, monitor: MonitorState, row: MemberState) -> MemberState:
        """Do what a miss of a present member calls for; returns its row, which the suspicion may have changed."""
        if monitor.misses >= 2:
            self._eviction.suspect(row)
        row = self._state.table.get(monitor.member_id) or row
        if monitor.misses <= FULL_VERIFY_MISSES:
            self.verify(row)
        elif monitor.misses % FULL_VERIFY_MISSES == 0:
            self._probes.ping(row)
        return row

    def _until_next_miss(self, monitor: MonitorState) -> float:
        """Leave an answer time for a round trip. Once we vote, a miss only renews the vote, which must not expire."""
        if monitor.misses >= self._state.settings.misses:
            return self._period
        return min(max(self._period, self._probes.rtt(monitor.member_id)), 3 * self._period)

    def verify(self, row: MemberState) -> None:
        """Ping a member directly and indirectly."""
        self.acted = True
        self._probes.verify(row)

    # --- evidence from others

    def on_sign_of_life(self, member_id: MemberId, at: float) -> None:
        """The member itself was alive at the time ``at``."""
        monitor = self.monitored.get(member_id)
        if monitor is not None:
            if at > monitor.last_direct:
                monitor.last_direct = at
            self._clear_misses(monitor, at)

    def on_indirect_ack(self, ack: IndirectAck) -> None:
        """A helper heard the subject a little while ago.

        It is believed for five periods after the subject's last direct sign of life. Lying helpers therefore cannot
        keep a dead member alive.
        """
        now = self._state.now
        monitor = self.monitored.get(MemberId(ack.subject))
        if monitor is None or now - monitor.last_direct > INDIRECT_ACK_PERIODS * self._period:
            self._state.counters["hearsay_ignored"] += 1
        else:
            self._clear_misses(monitor, now - min(ack.age / 1000, 1e6))

    def on_address_reused(self, member_id: MemberId) -> None:
        """Another process answers at a member's address. Each ping answered so is a miss.

        The first such answer only starts the verification. Misses are counted for the pings that it sends.
        """
        monitor = self.monitored.get(member_id)
        row = self._state.table.get(member_id)
        if monitor is None or row is None:
            return
        if self._probes.cancel_direct_ping(member_id):
            self._count_miss(monitor)
            self._rearm()
        else:
            self.verify(row)

    def on_ping_refused(self, row: MemberState, sent: float) -> None:
        """A kernel refused a ping of ours that was sent at ``sent``: a miss (icmp_evidence.py).

        The refusal shows that our own network works, so local health is not asked. If the votes do not suffice yet,
        the member is told of the suspicion.
        """
        state = self._state
        self.monitor_for(row, TEMPORARY_PERIODS * self._period)
        monitor = self.monitored[row.member_id]
        monitor.refused_ping_sent = sent
        self._add_miss(monitor)
        monitor.miss_due = state.now + self._period
        if monitor.misses >= state.settings.misses and not self._eviction.try_evict(row.member_id):
            self._eviction.suspect(row, quietly=True)  # the second vote is milliseconds away
            self._eviction.vote(state.table.get(row.member_id) or row)
            self._probes.ping(state.table.get(row.member_id) or row)
        self._rearm()

    def _clear_misses(self, monitor: MonitorState, at: float) -> None:
        """A subject was alive at the time ``at``: void its misses and our vote."""
        if at < monitor.last_heard or at < monitor.refused_ping_sent:
            return
        if monitor.misses:
            if monitor.misses >= self._state.settings.misses:
                self._votes.withdraw_own(monitor.member_id)
            monitor.misses = 0
            self._partition_guard.clear_loss(monitor.member_id)
        was_next = monitor.miss_due <= self.next_due
        monitor.last_heard = at
        due, soonest = self._next_miss_due(monitor), self._state.now + self.grace
        monitor.miss_due = due if due > soonest else soonest
        if was_next:
            self._rearm()

    # --- deadlines

    def _next_miss_due(self, monitor: MonitorState) -> float:
        worst, queue_delay = monitor.jitter.worst, self._local_health.queue_delay
        lateness = worst if worst > queue_delay else queue_delay
        return monitor.last_heard + self._period + adaptive_grace(self.grace, lateness, 2 * self._period)

    def _rearm(self) -> None:
        next_due = math.inf
        for monitor in self.monitored.values():
            if monitor.miss_due < next_due:
                next_due = monitor.miss_due
            if monitor.expires < next_due:
                next_due = monitor.expires
        self.next_due = next_due
