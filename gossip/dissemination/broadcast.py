"""Broadcasting updates: at once, to a few members, each of which broadcasts on what it hears for the first time.

A broadcast leaves at once. What comes within the next 20 ms waits and leaves together, to the same peers. A wide update
waits only for an earlier wide one: where a host refuses, a death follows its suspicion at once.

Deaths, departures, changes of readiness and policies are wide: they go to ceil(ln n) + 1 members, everything else to 3.
The peers are not random. With all present members in one order, number p broadcasts to (-p*k - r) mod n for r = 1 ... k
(Imase and Itoh, "Design to minimize diameter on building-block network", 1981). Where tables agree, k members broadcast
to each member, and nobody is more than ceil(log_k n) steps away. With random peers, as many copies miss a member in one
death of six at n = 64, and ceil(ln n) + 3 copies still do in one of fifty.

After its broadcast an update goes to the piggyback queue (piggyback.py).
"""

from __future__ import annotations

import math
from bisect import bisect_left

from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.dissemination.piggyback import PiggybackQueue
from rumormill.gossip.dissemination.update_encoder import UpdateEncoder
from rumormill.gossip.part import Part
from rumormill.gossip.state import MAX_MESSAGE_BYTES, NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, MemberId

FANOUT = 3
MIN_WIDE_FANOUT = 5
MAX_QUEUED_RECORDS = 8
"""Records broadcast in one burst. A larger backlog is left to sync, which is cheaper in bulk."""
MAX_ESTABLISHED_TOLD = 8
"""Established members that hear of a death directly while newcomers are among us: all of them, if they are so few."""
MAX_BATCH = 64
"""Messages in one datagram of a broadcast."""


class Broadcast(Part):
    """Queues updates and broadcasts them."""

    __slots__ = ("_next_burst", "_next_wide", "_queued_records", "_state", "encoder", "piggyback", "queued")

    def __init__(self, state: NodeState, votes: VoteBook) -> None:
        self._state = state
        self.encoder = UpdateEncoder(state, votes)
        self.piggyback = PiggybackQueue(self.encoder)
        self.queued: dict[MemberId, bool] = {}
        """Members whose updates wait to be broadcast, and whether each goes wide."""
        self._queued_records = 0
        self._next_burst = self._next_wide = state.now

    @property
    def deadline(self) -> float:
        """When the queue may be broadcast; infinite while it is empty."""
        if not self.queued:
            return math.inf
        return min(self._next_wide, self._next_burst) if any(self.queued.values()) else self._next_burst

    def announce(self, member_id: MemberId, *, wide: bool = False) -> None:
        """Queue an update about this member, or policy."""
        row = self._state.table.get(member_id)
        if row is None:
            if self._state.table.policies.get(member_id) is not None:
                self._queue(member_id, wide)
            return
        if row.liveness is Liveness.ALIVE and member_id not in self.queued and row is not self._state.me:
            self._queued_records += 1
            if self._queued_records > MAX_QUEUED_RECORDS and not wide:
                self._state.counters["left_to_sync"] += 1
                return
        self._queue(member_id, wide)

    def _queue(self, member_id: MemberId, wide: bool) -> None:
        self.queued[member_id] = wide or self.queued.get(member_id, False)

    def flush(self) -> None:
        """Broadcast the queue, if a burst may leave now. Called once at the end of every step."""
        state = self._state
        if state.now < self.deadline:
            return
        queued, self.queued, self._queued_records = self.queued, {}, 0
        self._next_burst = state.now + state.settings.burst
        if any(queued.values()):
            self._next_wide = self._next_burst
        wide = [message for m, is_wide in queued.items() if is_wide and (message := self.encoder.update(m))]
        near = [message for m, is_wide in queued.items() if not is_wide and (message := self.encoder.update(m))]
        for peer, messages in self._address(wide, near):
            for batch in batches(messages):
                state.send_encoded(peer, batch)
        self.piggyback.add(queued)

    def _address(self, wide: list[bytes], near: list[bytes]) -> list[tuple[MemberState, list[bytes]]]:
        """Which messages go to which peers."""
        broadcasts: dict[MemberId, tuple[MemberState, list[bytes]]] = {}
        if wide:
            peers = self.broadcast_targets(self.wide_fanout(len(wide)))
            broadcasts.update((peer.member_id, (peer, list(wide))) for peer in peers)
            established = self._state.voter_eligibility.extra_broadcast_targets(MAX_ESTABLISHED_TOLD, broadcasts)
            broadcasts.update((peer.member_id, (peer, list(wide))) for peer in established)
        for peer in self.broadcast_targets(FANOUT) if near else ():
            broadcasts.setdefault(peer.member_id, (peer, []))[1].extend(near)
        return list(broadcasts.values())

    def wide_fanout(self, updates: int = 1) -> int:
        """ceil(ln n) + 1, more for many updates at once, and everybody in the smallest pools."""
        return max(math.ceil(math.log(len(self._state.table.present_ids) * updates)) + 1, MIN_WIDE_FANOUT)

    def broadcast_targets(self, count: int) -> list[MemberState]:
        """The ``count`` members we broadcast to. Random members replace ourselves and suspects among them."""
        state, table, me = self._state, self._state.table, self._state.me.member_id
        order = table.present_ids
        chosen: dict[MemberId, MemberState] = {}
        for position in broadcast_positions(bisect_left(order, me), len(order), count):
            member_id = order[position]
            if member_id == me or (member_id in table.suspects and not state.cut_off):
                continue
            if row := table.get(member_id):
                chosen[member_id] = row
        missing = count - len(chosen)
        return [*chosen.values(), *(state.random_members(missing, exclude=tuple(chosen)) if missing > 0 else [])]

    def restart(self) -> None:
        """After a pause of our own: what is queued may be wrong by now, and bursts count from now."""
        self.queued.clear()
        self._queued_records = 0
        self._next_burst = self._next_wide = self._state.now


def broadcast_positions(position: int, size: int, count: int) -> list[int]:
    """To whom number ``position`` of ``size`` broadcasts: ``count`` positions. Some may be equal, or its own.

    ``count`` members broadcast to each member. From any member all are reached in ceil(log(size) / log(count)) steps.
    """
    return [(-position * count - step) % size for step in range(1, count + 1)]


def batches(messages: list[bytes], room: int = MAX_MESSAGE_BYTES) -> list[list[bytes]]:
    """Encoded messages in their order, cut into groups that fit one datagram each."""
    groups: list[list[bytes]] = []
    left = 0
    for message in messages:
        if not groups or len(message) > left or len(groups[-1]) == MAX_BATCH:
            groups.append([])
            left = room
        groups[-1].append(message)
        left -= len(message)
    return groups
