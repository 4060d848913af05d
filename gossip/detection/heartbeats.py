"""Heartbeats: when ours leave, and how a pool falls into step.

Every period a member sends one heartbeat to each of its monitors.

Waking up is the main cost of an idle member. Our heartbeat therefore leaves early when another one arrives shortly
before ours is due: receiving and sending then share one wakeup. The members of a pool soon send together
(pulse-coupled oscillators; Mirollo, Strogatz, 1990). A member that wakes to receive three heartbeats sends its own in
the same wakeup, which halves the number of wakeups.

Each period earns a little credit, and a heartbeat can be early only by the credit earned. So the rate of heartbeats
rises by no more than :data:`EARLY_CREDIT_PER_PERIOD`, whatever the delays between members. No heartbeat is ever late.

One bit of the member id puts each member into one of two phase groups, which are half a period apart. A dead process
then refuses datagrams twice a period (icmp_evidence.py), so its death is noticed sooner. Members that share a machine
do not all need its processors at the same moment.
"""

from __future__ import annotations

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import DEAF, Heartbeat, encode_message
from rumormill.membership.member_state import MemberState

EARLY_CREDIT_PER_PERIOD = 0.05
"""Part of a period by which heartbeats can be early on average. Larger: more heartbeats where delays keep a pool out of
step. Smaller: the pool takes longer to fall into step."""
MAX_EARLY_CREDIT = 0.5
"""Part of a period by which a single heartbeat can be early. Smaller: some members stay out of step with the rest."""
FOLLOWER_DELAY = 0.02
"""Part of a period added to the interval after an early heartbeat, so that the member that was first stays first.
Smaller: two members that are due at the same time wake each other. Larger: when the first one dies, the heartbeat of
each follower uses up more of the grace, once."""
PHASE_TOLERANCE = 0.1
"""Part of a period by which the distance of the two phase groups can differ from half a period. Smaller: members also
react to heartbeats of the other group. Larger: in more pools some members settle in neither group."""


class Heartbeats:
    """Sends our heartbeats. Times in seconds."""

    __slots__ = ("_early_credit", "_extra_delay", "_period", "_probes", "_state", "monitors", "next_due")

    def __init__(self, state: NodeState, probes: Probes) -> None:
        self._state = state
        self._probes = probes
        self._period = state.settings.period
        self._early_credit = 0.0
        """How early our next heartbeat can leave."""
        self._extra_delay = 0.0
        self.next_due = state.now + state.rng.random() * self._period
        self.monitors: list[MemberState] = []
        """The members that receive our heartbeats."""

    def synchronize(self, sender: MemberState) -> None:
        """A heartbeat came from another member: move ours to now, or to half a period from now for a sender of the
        other phase group, if the credit allows it."""
        early = self.next_due - self._state.now
        if (sender.member_id[0] ^ self._state.me.member_id[0]) & 1:
            early -= self._period / 2
            if early < PHASE_TOLERANCE * self._period:
                return
        if 0 < early <= self._early_credit:
            self._early_credit -= early
            self.next_due -= early
            self._extra_delay = FOLLOWER_DELAY * self._period

    def send(self, *, inbound_cut: bool) -> None:
        """Send a heartbeat to each of our monitors and schedule the next. ``inbound_cut`` tells them that we hear
        nobody."""
        self._schedule_next()
        state = self._state
        sent = int(state.now * 1000) % 2**32
        flags = DEAF if inbound_cut else 0
        heartbeat = encode_message(Heartbeat(state.table.digest & 0xFFFFFFFF, sent, flags))
        for monitor in self.monitors:
            self._probes.send_with_piggyback(monitor, heartbeat)

    def restart(self) -> None:
        """After a pause of our own: the next heartbeat is due at once."""
        self.next_due = self._state.now

    def _schedule_next(self) -> None:
        now, period = self._state.now, self._period
        self.next_due += period + self._extra_delay
        self._extra_delay = 0.0
        self._early_credit = min(self._early_credit + EARLY_CREDIT_PER_PERIOD * period, MAX_EARLY_CREDIT * period)
        if self.next_due <= now:
            self.next_due = now + period
