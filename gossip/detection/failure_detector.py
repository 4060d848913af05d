"""The failure detector as a whole: each step's order, and what a sign of life clears.

Each of its ideas has a file:

* heartbeats.py: our own heartbeats, and falling into step with the pool
* suspicion.py: misses of our subjects, the suspicion timer, verification, votes
* local_health.py: whether our own judgment can be trusted (Lifeguard)
* round_robin_probe.py: the slow probe of every member in turn (SWIM, section 4.3)
* probes.py: direct and indirect pings, and round-trip times
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rumormill.gossip.detection.heartbeats import Heartbeats
from rumormill.gossip.detection.local_health import LocalHealth
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.round_robin_probe import RoundRobinProbe
from rumormill.gossip.detection.suspicion import NEVER, MonitorState, Suspicion
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.lifecycle.eviction import Eviction
from rumormill.gossip.part import ANY, HEARTBEAT, Part, StepEffect
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import DEAF, Heartbeat, IndirectAck
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

STALE_PERIODS = 4
"""A heartbeat that was sent more than this many periods ago is no sign of life."""


class FailureDetector(Part):
    """Sends our heartbeats, expects those of our subjects, and judges members whose heartbeats do not come."""

    def __init__(
        self,
        state: NodeState,
        votes: VoteBook,
        eviction: Eviction,
        partition_guard: PartitionGuard,
        probes: Probes,
    ) -> None:
        self._state = state
        self._partition_guard = partition_guard
        self._probes = probes
        self._period = state.settings.period
        self._heartbeats = Heartbeats(state, probes)
        self._local_health = LocalHealth(state, partition_guard, probes)
        self._suspicion = Suspicion(state, votes, eviction, partition_guard, probes, self._local_health)
        self._round_robin_probe = RoundRobinProbe(state, eviction, partition_guard, probes, self._suspicion)
        self.monitored: Mapping[MemberId, MonitorState] = self._suspicion.monitored
        """What we keep of each member that we monitor."""
        self.reassignment_due = True
        """Whether the table has changed since subjects and monitors were last computed."""

    @property
    def deadline(self) -> float:
        """The earliest of our next heartbeat, the next miss, and the next stage of a probe. Seconds."""
        due, next_miss = self._heartbeats.next_due, self._suspicion.next_due
        if next_miss < due:
            due = next_miss
        probe = self._round_robin_probe.deadline
        return probe if probe < due else due

    @property
    def heartbeat_targets(self) -> Sequence[MemberState]:
        """The members that receive our heartbeats."""
        return self._heartbeats.monitors

    @property
    def next_heartbeat(self) -> float:
        """When our next heartbeats are due. Seconds."""
        return self._heartbeats.next_due

    def set_grace(self, grace: float) -> None:
        """Let heartbeats be so many seconds late."""
        self._suspicion.grace = grace

    # --- each step

    def tick(self) -> StepEffect:
        """Do what is due. Heartbeats come first, so that nobody misses us while we judge others.

        The effect is HEARTBEAT if no member was judged or verified.
        """
        now, suspicion = self._state.now, self._suspicion
        suspicion.acted = False
        if now >= self._heartbeats.next_due:
            self._send_heartbeats()
        if now >= suspicion.next_due and suspicion.tick():
            self.reassignment_due = True
        self._round_robin_probe.tick()
        return ANY if suspicion.acted else HEARTBEAT

    def _send_heartbeats(self) -> None:
        """Send our heartbeats, and with them whatever is done once a period: it needs no wakeup of its own."""
        self._heartbeats.send(inbound_cut=self._partition_guard.inbound_cut)
        self._probes.remeasure_rtt(self.monitored)
        self._suspicion.ping_unaware()
        if self._state.voter_eligibility.poll_changed():
            self.reassignment_due = True
        self._suspicion.ping_one_suspect()
        self._suspicion.verify_claimed_deaths()
        self._local_health.check_outbound()

    def reassign_monitors(self) -> None:
        """Compute anew who monitors us and whom we monitor."""
        self.reassignment_due = False
        self._heartbeats.monitors = self._our_monitors()
        if self._partition_guard.outbound_cut:  # members that hold us dead send us no heartbeats
            self._suspicion.clear_subjects()
        else:
            self._suspicion.set_subjects(*self._state.voter_eligibility.subjects())

    def _our_monitors(self) -> list[MemberState]:
        state, table = self._state, self._state.table
        monitors = dict.fromkeys(state.voter_eligibility.monitors_of(state.me.member_id))
        monitors.update(dict.fromkeys(self._partition_guard.extra_heartbeat_targets(state.settings.monitors)))
        return [row for member_id in monitors if (row := table.get(member_id))]

    def restart(self) -> None:
        """After a pause of our own: all counts are void, and all deadlines count from now."""
        self._suspicion.restart()
        self._local_health.restart()
        self._heartbeats.restart()
        self._round_robin_probe.restart()

    # --- signs of life

    def on_heartbeat(self, sender: MemberState, heartbeat: Heartbeat) -> bool:
        """A heartbeat came. True if it is a sign of life, False if it is too old to be one."""
        self._heartbeats.synchronize(sender)
        deaf_members, local_health = self._probes.deaf_members, self._local_health
        if heartbeat.flags & DEAF:
            deaf_members[sender.member_id] = None
        elif deaf_members:
            deaf_members.pop(sender.member_id, None)
        now, at = self._state.now, self._state.arrived
        if at < now or local_health.queue_delay:
            local_health.note_queue_delay(now - at)
        monitor = self.monitored.get(sender.member_id)
        if monitor is not None:
            if monitor.last_heartbeat > NEVER:
                self._state.measurements.heartbeat_gap.observe(at - monitor.last_heartbeat)
            monitor.last_heartbeat = at
            at -= monitor.jitter.measure(heartbeat.sent, at)
        if now - at > STALE_PERIODS * self._period:
            return False
        self.on_sign_of_life(sender.member_id, at)
        return True

    def on_sign_of_life(self, member_id: MemberId, at: float) -> None:
        """A member was alive at the time ``at``: its misses are void, and so is our vote against it."""
        state, probe = self._state, self._round_robin_probe
        if at > state.last_heard.get(member_id, NEVER):
            state.last_heard[member_id] = at
        if probe.subject == member_id and state.now - at < self._period:
            probe.stop()
        self._suspicion.on_sign_of_life(member_id, at)

    def on_indirect_ack(self, ack: IndirectAck) -> None:
        """A helper heard the member that we asked it to ping."""
        if self._round_robin_probe.subject == ack.subject:
            self._round_robin_probe.stop()
        self._suspicion.on_indirect_ack(ack)

    # --- evidence against members

    def on_address_reused(self, member_id: MemberId) -> None:
        """Another process answers at a member's address."""
        self._suspicion.on_address_reused(member_id)

    def on_ping_refused(self, row: MemberState, sent: float) -> None:
        """A kernel refused a ping of ours that was sent at ``sent``."""
        self._suspicion.on_ping_refused(row, sent)

    def is_monitor_or_subject(self, member_id: MemberId) -> bool:
        """Whether we monitor a member, or it monitors us. If its kernel refuses, we are among the first to know."""
        return member_id in self.monitored or any(row.member_id == member_id for row in self._heartbeats.monitors)

    def ping_if_monitored(self, row: MemberState) -> None:
        """Something casts doubt on a member: ping it now if we monitor it."""
        if row.member_id in self.monitored:
            self._probes.ping(row)
