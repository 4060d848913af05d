"""The piggyback queue: updates that travel on heartbeats, pings and acks, which leave anyway.

The least-sent update goes first, and of those the newest. What both broadcasts and the queue miss is found by the table
digest that every heartbeat carries (anti_entropy.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from rumormill.gossip.dissemination.update_encoder import UpdateEncoder
from rumormill.gossip.state import MAX_MESSAGE_BYTES
from rumormill.membership.record import MemberId

PIGGYBACK_COUNT = 2
"""How often each update is sent. SWIM (section 4.1) sends it lambda * ln n times, but has no digest."""
MAX_PIGGYBACKED = 32


class PiggybackQueue:
    """Members with news, and how often each was sent."""

    __slots__ = ("_encoder", "_sent")

    def __init__(self, encoder: UpdateEncoder) -> None:
        self._encoder = encoder
        self._sent: dict[MemberId, int] = {}
        """How often each member's update was sent; the newest is last."""

    def add(self, member_ids: Iterable[MemberId]) -> None:
        """Queue updates about these members, to be sent from the start; the queue then drops what does not fit."""
        for member_id in member_ids:
            self._sent.pop(member_id, None)  # so that the newest is last
            self._sent[member_id] = 0
        if len(self._sent) > MAX_PIGGYBACKED:
            for member_id in self._in_order()[MAX_PIGGYBACKED:]:
                del self._sent[member_id]

    def take(self, room: int = MAX_MESSAGE_BYTES) -> list[bytes]:
        """Messages to put on a datagram that leaves anyway, at most ``room`` bytes of them."""
        if not self._sent:
            return []
        taken: list[bytes] = []
        for member_id in self._in_order():
            message = self._encoder.update(member_id)
            if message is not None and len(message) > room:
                break  # it goes first on the next datagram
            self._count(member_id, gone=message is None)
            if message is not None:
                room -= len(message)
                taken.append(message)
        return taken

    def _count(self, member_id: MemberId, *, gone: bool) -> None:
        sent = self._sent[member_id] + 1
        if gone or sent >= PIGGYBACK_COUNT:
            del self._sent[member_id]
        else:
            self._sent[member_id] = sent

    def _in_order(self) -> list[MemberId]:
        """Least sent first; among equals, the newest first."""
        newest_first = reversed(self._sent.items())
        return [member_id for member_id, _ in sorted(newest_first, key=lambda item: item[1])]
