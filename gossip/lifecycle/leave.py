"""Leaving: we send a leave message at once, repeat it a moment later to other random members, and are gone.

Members that speak wire version 2 acknowledge it. Where packets are lost, we repeat it until two have, for a second at
most: a planned end must not look like a crash. Members of version 1 acknowledge nothing. Where we have told only such
members, we are gone after the second message.

An instance leaves under one incarnation only, however often it says so. So a repeated message is no news.
"""

from __future__ import annotations

import math

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Leave, LeaveAck, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

LEAVE_SECONDS = 0.15
"""Seconds from the first leave message until we may be gone. It is repeated halfway through."""
LONGEST_LEAVE = 1.0
"""Seconds after which we are gone even if nobody has acknowledged it. Larger: a member that is cut off ends later."""
ENOUGH_ACKS = 2
"""One alone may end itself before it has passed on the news."""
LEAVE_REPEATS = 5
"""Members told in addition to the wide fan-out: a member that leaves cannot repeat itself later."""


class LeaveProtocol(Part):
    """Sends our leave messages: when we leave the pool, and when an instance of ours ends."""

    __slots__ = (
        "_acknowledged",
        "_asked",
        "_broadcast",
        "_finish_at",
        "_give_up_at",
        "_leave_messages",
        "_left_as",
        "_repeat_at",
        "_state",
    )

    def __init__(self, state: NodeState, broadcast: Broadcast) -> None:
        self._state = state
        self._broadcast = broadcast
        self._left_as = b""
        """The member id under which we last left."""
        self._leave_messages: list[bytes] = []
        self._repeat_at = self._finish_at = self._give_up_at = math.inf
        self._asked: dict[MemberId, None] = {}
        """Members that were told and can acknowledge it."""
        self._acknowledged: dict[MemberId, None] = {}

    @property
    def deadline(self) -> float:
        finish = self._finish_at if self._state.now < self._finish_at else math.inf
        return min(self._repeat_at, finish)

    @property
    def finished(self) -> bool:
        """Whether our leave message was heard, or has had time to be."""
        now = self._state.now
        return self._state.leaving and now >= self._finish_at and (self._heard or now >= self._give_up_at)

    @property
    def _heard(self) -> bool:
        """Whether enough of those that can acknowledge it have."""
        return len(self._acknowledged) >= min(ENOUGH_ACKS, len(self._asked))

    def begin(self) -> None:
        """Leave the pool. From now on we send nothing that would bring us back."""
        state = self._state
        self.announce_leave()
        state.leaving = True
        self._schedule(state.now + LEAVE_SECONDS / 2)
        state.record_event("left", state.me.name, f"{state.me.name} left")

    def _schedule(self, repeat_at: float) -> None:
        now = self._state.now
        self._repeat_at, self._finish_at, self._give_up_at = repeat_at, now + LEAVE_SECONDS, now + LONGEST_LEAVE

    def tick(self) -> None:
        if self._state.now < self._repeat_at:
            return
        if self.finished:
            self._repeat_at = math.inf
            return
        self._send_leave()
        self._repeat_at = self._state.now + LEAVE_SECONDS / 2

    def restart(self) -> None:
        """After a pause of our own: the outbox was dropped, so send the leave message again."""
        if self._state.leaving:
            self._schedule(self._state.now)

    def on_ack(self, ack: LeaveAck, sender: MemberState) -> None:
        """A member says that it has heard our leave message."""
        state = self._state
        if not state.speaks(state.me, 2):
            state.counters["dropped_payload"] += 1  # a member of version 1 cannot read it
        elif state.leaving and ack.subject == state.me.member_id and sender.member_id in self._asked:
            self._acknowledged[sender.member_id] = None

    def announce_leave(self, *, also: MemberState | None = None) -> None:
        """Tell many members, and ``also``, that this instance ends. Sends the record that the leave message refers
        to."""
        state = self._state
        if self._left_as != state.me.member_id:
            self._left_as = state.me.member_id
            state.raise_incarnation()
            leave_signature = encode_message(Leave(state.me.member_id, state.me.incarnation, state.sign_leave()))
            self._leave_messages = [self._broadcast.encoder.alive(state.me), leave_signature]
        self._send_leave(also)

    def _send_leave(self, also: MemberState | None = None) -> None:
        state, count = self._state, self._broadcast.wide_fanout() + LEAVE_REPEATS
        told = {row.member_id: row for row in state.random_members(count, exclude=tuple(self._acknowledged))}
        if also is not None:
            told[also.member_id] = also
        for row in told.values():
            state.send_encoded(row, self._leave_messages)
            if state.speaks(row, 2):
                self._asked[row.member_id] = None
