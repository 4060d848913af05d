"""What our datagrams say of our worker's load: the end of a payload, behind its messages."""

from __future__ import annotations

import math

from rumormill.gossip.wire import encode_field
from rumormill.membership.load import CallerCounts, Load
from rumormill.membership.record import MemberId

REFRESH = 10.0
"""Seconds after which a member is told an unchanged figure again, if a datagram leaves for it anyway. Larger: fewer
bytes, and a figure that was lost is made good later."""
RIDE_SECONDS = 1.5
"""Seconds for which what callers reported goes along with every datagram. They report anew each second. Larger: a
caller that is gone counts for longer; smaller: a lost datagram is made good less often."""
MAX_MESSAGES_BESIDE = 1024
"""Bytes of messages in a datagram that has room for these fields too."""
_NOTHING = b"\xc0"
"""msgpack's nil."""


class OwnLoad:
    """Our figure, who was told it, and what we tell single members about their workers."""

    __slots__ = ("_encoded", "callers", "figure", "told")

    def __init__(self) -> None:
        self.figure: Load | None = None
        """What we announce; None before the first measurement."""
        self._encoded = _NOTHING
        self.told: dict[MemberId, tuple[int, float]] = {}
        """The number of the figure that each member was last told, and when."""
        self.callers: dict[MemberId, tuple[CallerCounts, float]] = {}
        """What our callers report of these members' workers, and when it was passed on to us."""

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
        if figure is None and not self.callers:
            return ()
        if len(messages) > 1 and sum(map(len, messages)) > MAX_MESSAGES_BESIDE:
            return ()
        number, at = self.told.get(member_id, (0, -REFRESH))
        due = figure is not None and (number != figure.number or now - at >= REFRESH)
        if due and figure is not None:
            self.told[member_id] = (figure.number, now)
        counts, reported_at = self.callers.get(member_id, (None, -math.inf))
        if counts is not None and now - reported_at < RIDE_SECONDS:
            return (self._encoded if due else _NOTHING, *map(encode_field, counts))
        return (self._encoded,) if due else ()
