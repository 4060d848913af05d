"""Leaving: the goodbye is said at once, once more a moment later to others drawn anew, and then we are gone.

A life says goodbye under one incarnation only, however often: whoever heard it once has heard it.
"""

from __future__ import annotations

import math

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Leave, encode_message
from rumormill.membership.member_state import MemberState

LEAVE_SECONDS = 0.15
"""How long a departure is given to be heard before it counts as said. Halfway through it is said once more."""
LEAVE_REPEATS = 5
"""More than to others' news a departure is told to: who leaves has no more than that moment to repeat it."""


class LeaveProtocol(Part):
    """Our leaving, and what we say as a life of ours ends."""

    __slots__ = ("_broadcast", "_departed", "_finish_at", "_goodbye", "_repeat_at", "_state")

    def __init__(self, state: NodeState, spread: Broadcast) -> None:
        self._state = state
        self._broadcast = spread
        self._departed = b""
        """The half under which we said goodbye."""
        self._goodbye: list[bytes] = []
        self._repeat_at = self._finish_at = math.inf

    @property
    def deadline(self) -> float:
        return min(self._repeat_at, self._finish_at)

    @property
    def finished(self) -> bool:
        """Whether our departure has been said for long enough."""
        return self._state.leaving and self._state.now >= self._finish_at

    def begin(self) -> None:
        """Leave: say so, and nothing that would bring us back from now on."""
        state = self._state
        self.announce_leave()
        state.leaving = True
        self._repeat_at, self._finish_at = state.now + LEAVE_SECONDS / 2, state.now + LEAVE_SECONDS
        state.record_event("left", state.me.name, f"{state.me.name} left")

    def tick(self) -> None:
        if self._state.now >= self._repeat_at:
            self._repeat_at = math.inf
            self._tell()

    def restart(self) -> None:
        """After a pause of our own: what was to be said may have been dropped just now."""
        if self._state.leaving:
            self._repeat_at, self._finish_at = self._state.now, self._state.now + LEAVE_SECONDS

    def announce_leave(self, *, also: MemberState | None = None) -> None:
        """Tell many at once that this life ends, with the record the departure speaks of; one of them for certain."""
        state = self._state
        if self._departed != state.me.member_id:
            self._departed = state.me.member_id
            state.raise_incarnation()
            leave_signature = encode_message(Leave(state.me.member_id, state.me.incarnation, state.sign_leave()))
            self._goodbye = [self._broadcast.encoder.alive(state.me), leave_signature]
        self._tell(also)

    def _tell(self, also: MemberState | None = None) -> None:
        state = self._state
        told = {row.member_id: row for row in state.random_members(self._broadcast.wide_fanout() + LEAVE_REPEATS)}
        if also is not None:
            told[also.member_id] = also
        for row in told.values():
            state.send_encoded(row, self._goodbye)
