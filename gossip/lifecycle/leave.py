"""Leaving: we send a leave message at once, repeat it a moment later to other random members, and are gone.

An instance leaves under one incarnation only, however often it says so. So a repeated message is no news.
"""

from __future__ import annotations

import math

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Leave, encode_message
from rumormill.membership.member_state import MemberState

LEAVE_SECONDS = 0.15
"""Seconds from the first leave message until we have left. It is repeated halfway through."""
LEAVE_REPEATS = 5
"""Members told in addition to the wide fan-out: a member that leaves cannot repeat itself later."""


class LeaveProtocol(Part):
    """Sends our leave messages: when we leave the pool, and when an instance of ours ends."""

    __slots__ = ("_broadcast", "_finish_at", "_leave_messages", "_left_as", "_repeat_at", "_state")

    def __init__(self, state: NodeState, broadcast: Broadcast) -> None:
        self._state = state
        self._broadcast = broadcast
        self._left_as = b""
        """The member id under which we last left."""
        self._leave_messages: list[bytes] = []
        self._repeat_at = self._finish_at = math.inf

    @property
    def deadline(self) -> float:
        return min(self._repeat_at, self._finish_at)

    @property
    def finished(self) -> bool:
        """Whether our leave message has had time to be heard."""
        return self._state.leaving and self._state.now >= self._finish_at

    def begin(self) -> None:
        """Leave the pool. From now on we send nothing that would bring us back."""
        state = self._state
        self.announce_leave()
        state.leaving = True
        self._repeat_at, self._finish_at = state.now + LEAVE_SECONDS / 2, state.now + LEAVE_SECONDS
        state.record_event("left", state.me.name, f"{state.me.name} left")

    def tick(self) -> None:
        if self._state.now >= self._repeat_at:
            self._repeat_at = math.inf
            self._send_leave()

    def restart(self) -> None:
        """After a pause of our own: the outbox was dropped, so send the leave message again."""
        if self._state.leaving:
            self._repeat_at, self._finish_at = self._state.now, self._state.now + LEAVE_SECONDS

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
        state = self._state
        told = {row.member_id: row for row in state.random_members(self._broadcast.wide_fanout() + LEAVE_REPEATS)}
        if also is not None:
            told[also.member_id] = also
        for row in told.values():
            state.send_encoded(row, self._leave_messages)
