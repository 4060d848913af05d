"""How the datagrams we sent lately ended: so an answer of somebody who does not know us can be told from an invention.

A *who* quotes the last eight bytes of what it answers, and whoever did not see that datagram cannot quote them. Every
datagram between members is noted and hardly one is ever asked for. So noting is what must be cheap: the ends lie one
behind the other in one buffer, and are searched when somebody asks.
"""

from __future__ import annotations

from rumormill.membership.record import Address, MemberId

MARK_BYTES = 8
MAX_SENT_REMEMBERED = 512
"""Datagrams remembered at least; twice as many at most."""


class SentDatagrams:
    """The latest datagrams of one member: how each ended, where it went, and for which half it was."""

    __slots__ = ("_ends", "_member_ids", "_older", "_targets")

    def __init__(self) -> None:
        self._ends = bytearray()
        self._targets: list[Address] = []
        self._member_ids: list[MemberId] = []
        self._older: SentDatagrams | None = None

    def note(self, datagram: bytes, target: Address, member_id: MemberId) -> None:
        if len(self._targets) >= MAX_SENT_REMEMBERED:
            self._turn_over()
        self._ends += datagram[-MARK_BYTES:]
        self._targets.append(target)
        self._member_ids.append(member_id)

    def take(self, mark: bytes, target: Address) -> MemberId | None:
        """For which half the datagram was that ended so and went to an address; each is told once.

        Sealed, no two end alike. In plaintext the heartbeats of one moment do, so the address decides.
        """
        at = self._ends.find(mark)
        while at >= 0:
            place, odd = divmod(at, MARK_BYTES)
            if not odd and self._targets[place] == target:
                del self._ends[at : at + MARK_BYTES], self._targets[place]
                return self._member_ids.pop(place)
            at = self._ends.find(mark, at + 1)
        return self._older.take(mark, target) if self._older is not None else None

    def _turn_over(self) -> None:
        """What was written last becomes the older half, and the half before it is forgotten."""
        older = SentDatagrams()
        older._ends, older._targets, older._member_ids = self._ends, self._targets, self._member_ids
        self._ends, self._targets, self._member_ids, self._older = bytearray(), [], [], older
