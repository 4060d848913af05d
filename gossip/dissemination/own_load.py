"""What our datagrams say of our worker's load: the end of a payload, behind its messages."""

from __future__ import annotations

import math

from rumormill.gossip.wire import encode_field
from rumormill.membership.load import Load
from rumormill.membership.record import MemberId

REFRESH = 10.0
"""Seconds after which a member is told an unchanged figure again, if a datagram leaves for it anyway. Larger: fewer
bytes, and a figure that was lost is made good later."""
MAX_MESSAGES_BESIDE = 1024
"""Bytes of messages in a datagram that has room for these fields too."""
_NOTHING = b"\xc0"
"""msgpack's nil."""


class OwnLoad:
    """Our figure, who was told it, and what we tell single members about their workers."""

    __slots__ = ("_encoded", "figure", "told", "under_way")

    def __init__(self) -> None:
        self.figure: Load | None = None
        """What we announce; None before the first measurement."""
        self._encoded = _NOTHING
        self.told: dict[MemberId, tuple[int, float]] = {}
        """The number of the figure that each member was last told, and when."""
        self.under_way: dict[MemberId, int] = {}
        """Requests that our callers have under way at these members' workers, for members that want to know."""

    def announce(self, utilization: int | None, queue: int) -> None:
        """State another figure from now on."""
        self.figure = Load(self.figure.number + 1 if self.figure else 1, utilization, queue)
        self._encoded = encode_field(self.figure)

    def told_at(self, member_id: MemberId) -> float:
        """When a datagram with the present figure last left for this member; minus infinity if none did."""
        number, at = self.told.get(member_id, (0, -math.inf))
        return at if self.figure is not None and number == self.figure.number else -math.inf

    def fields_for(self, member_id: MemberId, now: float, messages: list[bytes]) -> tuple[bytes, ...]:
        """The encoded fields to stand behind these messages to a member; none while there is nothing to tell it.

        A datagram that is full of messages takes none.
        """
        figure = self.figure
        if figure is None and not self.under_way:
            return ()
        if len(messages) > 1 and sum(map(len, messages)) > MAX_MESSAGES_BESIDE:
            return ()
        number, at = self.told.get(member_id, (0, -REFRESH))
        due = figure is not None and (number != figure.number or now - at >= REFRESH)
        if due and figure is not None:
            self.told[member_id] = (figure.number, now)
        count = self.under_way.get(member_id)
        if count is not None:
            return (self._encoded if due else _NOTHING, encode_field(count))
        return (self._encoded,) if due else ()
