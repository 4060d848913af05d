"""Tells the other members how busy our worker is.

A figure has no signature. It stands behind the messages of a payload, and is the sender's own: what one member says of
another's load cannot even be written down. So every figure comes from its member itself, sealed for the receiver.

* Every datagram that leaves for a member anyway takes the figure along, if that member was not told it yet.
* A changed figure goes to all others with our next heartbeat, in a datagram that holds nothing else. Our monitors need
  none: a heartbeat brings it to them.
* A figure holds until its member states another, for as long as the member is heard. An unchanged one costs nothing.

A change costs a datagram for each other member. No relay is cheaper: a signature is as long as that datagram, and a
relayed copy must arrive more than once to be safe from loss. So a budget bounds the cost: in the long run these
datagrams, and the figures on others, are at most a twentieth of the bytes that we send. The budget saves for a few
changes in a row. As it runs out, a figure must move further before it is announced: precision gives way, and not the
network.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.membership.load import MAX_QUEUE, MAX_UTILIZATION, CallerCounts, Load
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

STEP = 20.0
"""Thousandths by which a utilization must move to be announced. Larger: fewer datagrams, coarser figures."""
MAX_STEP = 320.0
"""The same when the budget is spent."""
QUEUE_STEP = 40
"""A queue that doubles or halves counts as a move of so many thousandths."""
SHARE = 0.03
"""Announcements for each other datagram that we send. With the figures that ride on other datagrams, which cost about
1.5 % of the bytes, the whole stays below 5 %."""
SAVED_CHANGES = 3
"""Changes that the budget can save for. Larger: more changes in a row are told precisely, and longer bursts."""
FIELD_COST = 0.07
"""What a figure on a heartbeat costs, compared with a datagram of its own."""
SETTLED_SECONDS = 0.5
"""Seconds after which a newcomer holds our record. Larger: it learns of loads later."""
MAX_PER_PERIOD = 64
"""Announcements with one heartbeat. Sealing so many takes about a millisecond."""


class LoadAnnouncer(Part):
    """Decides when our figure has changed, and to whom it goes."""

    __slots__ = (
        "_budget",
        "_callers",
        "_counted",
        "_failure_detector",
        "_latest",
        "_pending",
        "_seen_table",
        "_state",
    )

    def __init__(self, state: NodeState, failure_detector: FailureDetector) -> None:
        self._state = state
        self._failure_detector = failure_detector
        self._latest: tuple[int | None, int] = (None, 0)
        """Utilization and queue as last measured."""
        self._budget = 1.0
        """What is saved for announcements: 1 pays for ``SAVED_CHANGES`` changes. Down to -1 on credit."""
        self._counted = 0
        """Datagrams sent, as of when the budget was last raised."""
        self._pending = False
        """Whether somebody may not have been told our figure."""
        self._seen_table = -1
        self._callers: set[MemberId] = set()
        """Members that wait to hear what our callers report of their workers."""

    def measure(self, utilization: float | None, queue: int) -> None:
        """Take in a measurement; None if the load is not known. 1.0 is a worker that is full."""
        if utilization is None or not math.isfinite(utilization):
            self._latest = (None, 0)
        else:
            thousandths = min(max(round(utilization * 1000), 0), MAX_UTILIZATION)
            self._latest = (thousandths, min(max(queue, 0), MAX_QUEUE))

    def tell_callers(self, counts: Mapping[MemberId, CallerCounts]) -> None:
        """Tell members what our callers report of their workers: a doubt, and that nothing is under way any more, at
        once, and all else with our next heartbeat."""
        state = self._state
        for member_id, now in counts.items():
            before, _ = state.own_load.callers.get(member_id, (None, 0.0))
            state.own_load.callers[member_id] = now, state.now
            if before is None or now.doubts > before.doubts or (now.under_way == 0 != before.under_way):
                self._callers.discard(member_id)
                self._send_callers(member_id)
            else:
                self._callers.add(member_id)

    @property
    def lazy_deadline(self) -> float:
        """Now, with our next heartbeat, while there may be something to tell."""
        if self._callers:
            return self._state.now
        told = self._state.own_load.figure
        if told is None:
            return math.inf if self._latest[0] is None else self._state.now
        if self._pending or self._seen_table != self._state.table.version or self._moved(told) >= STEP:
            return self._state.now
        return math.inf

    def tick(self) -> None:
        """Announce what has moved far enough, to those who were not told yet."""
        state, own = self._state, self._state.own_load
        for member_id in sorted(self._callers):
            self._send_callers(member_id)
        self._callers.clear()
        if own.figure is None and self._latest[0] is None:
            return
        others = self._others()
        monitors = len(self._failure_detector.heartbeat_targets)
        cost = 1.0 / (SAVED_CHANGES * max(len(others) - monitors * (1.0 - FIELD_COST), FIELD_COST))
        self._budget = min(self._budget + SHARE * (state.sent - self._counted) * cost, 1.0)
        self._counted = state.sent
        if own.figure is None or self._moved(own.figure) >= required_step(self._budget):
            own.announce(*self._latest)
            self._budget -= FIELD_COST * monitors * cost
            self._pending = True
        if self._seen_table != state.table.version:
            self._seen_table, self._pending = state.table.version, True
        if self._pending and not state.isolated:
            self._tell(others, cost)

    def _send_callers(self, member_id: MemberId) -> None:
        if (row := self._state.table.get(member_id)) is not None and row.present:
            self._state.send_encoded(row, [])

    def _moved(self, told: Load) -> float:
        """By how much the latest measurement differs from the figure that the others were told, in thousandths."""
        utilization, queue = self._latest
        if utilization is None or told.utilization is None:
            return 0.0 if utilization is told.utilization else MAX_STEP
        waits = abs(queue.bit_length() - told.queue.bit_length()) * QUEUE_STEP
        return float(max(abs(utilization - told.utilization), waits))

    def _others(self) -> list[MemberState]:
        """The other members that are present and not suspect."""
        table, me = self._state.table, self._state.me.member_id
        others = (m for m in table.present_ids if m != me and m not in table.suspects)
        return [row for member_id in others if (row := table.get(member_id)) is not None]

    def _tell(self, others: list[MemberState], cost: float) -> None:
        """Send the figure to those that lack it. Some may have to wait for the next heartbeat."""
        state = self._state
        monitors = {row.member_id for row in self._failure_detector.heartbeat_targets}
        lacking = [row for row in others if self._lacks(row.member_id, monitors)]
        for row in lacking[:MAX_PER_PERIOD]:
            state.own_load.told.pop(row.member_id, None)
            state.send_encoded(row, [])
            self._counted += 1
            self._budget -= cost
        newest = max((state.known_since.get(row.member_id, -math.inf) for row in others), default=-math.inf)
        self._pending = len(lacking) > MAX_PER_PERIOD or state.now < newest + SETTLED_SECONDS

    def _lacks(self, member_id: MemberId, monitors: Container[MemberId]) -> bool:
        """Whether a member must be sent our figure. A newcomer cannot open our datagrams before it holds our record, so
        it is told once more after a moment."""
        state = self._state
        settled = state.known_since.get(member_id, -math.inf) + SETTLED_SECONDS
        told = state.own_load.told_at(member_id)
        return told < settled <= state.now or (told == -math.inf and member_id not in monitors)


def required_step(budget: float) -> float:
    """How far a figure must have moved to be announced, in thousandths: 2 % with a full budget, and ever more as it
    runs out. A move of a third of the worker's capacity is told on credit."""
    if budget <= -1.0:
        return math.inf
    filled = min(max((budget * SAVED_CHANGES - 1) / (SAVED_CHANGES - 1), 0.0), 1.0)
    return float(STEP * (MAX_STEP / STEP) ** (1.0 - filled))
