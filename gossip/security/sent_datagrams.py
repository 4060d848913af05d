"""The last bytes of the datagrams we sent recently: they tell a real UnknownSender message from a forged one.

An UnknownSender message quotes the last eight bytes (the *mark*) of the datagram that it answers. Only a node that has
seen that datagram can quote them. Every datagram between members is noted, and hardly any is ever looked up. So noting
must be cheap: the marks are kept in one buffer, which is searched when a message comes.
"""

from __future__ import annotations

from rumormill.membership.record import Address, MemberId

MARK_BYTES = 8
MAX_SENT_REMEMBERED = 512
"""The least number of datagrams remembered; at most twice as many are."""


class SentDatagrams:
    """The latest datagrams of one member: the mark of each, its target address, and its receiver."""

    __slots__ = ("_marks", "_member_ids", "_older", "_targets")

    def __init__(self) -> None:
        self._marks = bytearray()
        self._targets: list[Address] = []
        self._member_ids: list[MemberId] = []
        self._older: SentDatagrams | None = None

    def note(self, datagram: bytes, target: Address, member_id: MemberId) -> None:
        if len(self._targets) >= MAX_SENT_REMEMBERED:
            self._rotate()
        self._marks += datagram[-MARK_BYTES:]
        self._targets.append(target)
        self._member_ids.append(member_id)

    def take(self, mark: bytes, target: Address) -> MemberId | None:
        """The receiver of the datagram with this mark that went to this address. Each datagram is found once.

        No two sealed datagrams have the same mark. In plaintext, heartbeats of one moment do, so the address decides.
        """
        at = self._marks.find(mark)
        while at >= 0:
            place, odd = divmod(at, MARK_BYTES)
            if not odd and self._targets[place] == target:
                del self._marks[at : at + MARK_BYTES], self._targets[place]
                return self._member_ids.pop(place)
            at = self._marks.find(mark, at + 1)
        return self._older.take(mark, target) if self._older is not None else None

    def _rotate(self) -> None:
        """The current buffer becomes the older one, and the older one before it is forgotten."""
        older = SentDatagrams()
        older._marks, older._targets, older._member_ids = self._marks, self._targets, self._member_ids
        self._marks, self._targets, self._member_ids, self._older = bytearray(), [], [], older
