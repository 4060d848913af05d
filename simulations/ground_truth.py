"""The ground truth of a world: who heard whom and when, and who could reach whom.

No member can know this. The invariant checker compares each member's conclusions with it. It is built from outside,
from datagrams as they are sent and received. It shares only the header layout with the protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from rumormill.gossip.security.seal import UNKNOWN_RECEIVER, Seal
from rumormill.membership.record import MEMBER_ID_BYTES, MemberId
from rumormill.simulations.network import ActiveFault

_SENDER = slice(10, 10 + MEMBER_ID_BYTES)
_RECEIVER = slice(18, 18 + MEMBER_ID_BYTES)
"""The sender and the receiver in a datagram's header (gossip/security/seal.py)."""
_MISSES_NEEDED = 3
"""A miss is a period of silence, or a genuine refusal, since the last sign of life."""
_SEND_TIME_KEPT = 30_000_000
"""Microseconds for which the send time of a datagram is kept."""


@dataclass(slots=True)
class LastHeard:
    """What one observer has heard of one subject. Times are in microseconds of the world."""

    sent: int
    """When the newest received sign of life was sent."""
    gap_ended: int = -1
    """When the latest silence of three periods ended; -1 if there was none."""


@dataclass(frozen=True, slots=True)
class FaultEpoch:
    """An interval in which the network's faults did not change."""

    began: int
    faults: tuple[ActiveFault, ...]

    def link(self, source: str, target: str) -> str:
        """The state of the link from one host to another: ``clean``, ``cut`` or ``bad``."""
        state = "clean"
        for fault in self.faults:
            if (fault.sources is None or source in fault.sources) and (
                fault.targets is None or target in fault.targets
            ):
                if fault.fault.cut:
                    return "cut"
                state = "bad"
        return state

    def between(self, one: str, other: str) -> str:
        """``clean`` or ``cut`` if both directions agree, else ``bad``."""
        there, back = self.link(one, other), self.link(other, one)
        return there if there == back else "bad"


class GroundTruth:
    """Records what happens from outside. ``silence`` is the shortest time for three misses, in microseconds."""

    def __init__(self, silence: int) -> None:
        self._silence = silence
        self._sent: dict[bytes, int] = {}
        self._order: deque[tuple[int, bytes]] = deque()
        self._heard: dict[str, dict[MemberId, LastHeard]] = {}
        self._refused: dict[str, dict[MemberId, deque[int]]] = {}
        """For each observer and subject: when its latest refusals arrived."""
        self._started_at: dict[str, int] = {}
        self.epochs = [FaultEpoch(0, ())]

    # -- Recording

    def process_started(self, observer: str, now: int) -> None:
        """A process started. It has heard nobody yet."""
        self._started_at[observer] = now
        self._heard[observer] = {}
        self._refused[observer] = {}

    def sent(self, now: int, data: bytes) -> None:
        """A datagram was sent. Only its first transmission counts; a relay of it does not."""
        if data in self._sent:
            return
        self._sent[data] = now
        order = self._order
        order.append((now, data))
        while order[0][0] < now - _SEND_TIME_KEPT:
            del self._sent[order.popleft()[1]]

    def received(self, observer: str, member_id: MemberId, now: int, data: bytes) -> None:
        """The process with that member id received a datagram.

        Datagrams it only relays for others do not count. Neither do datagrams that any holder of the group key could
        have forged in the sender's name.
        """
        sent = self._sent.get(data)
        if sent is None or Seal.is_from_stranger(data) or data[_RECEIVER] not in (member_id, UNKNOWN_RECEIVER):
            return
        heard = self._heard[observer]
        sender = sender_id(data)
        last_heard = heard.get(sender)
        if last_heard is None:
            last_heard = heard[sender] = LastHeard(self._started_at[observer])
        if now - last_heard.sent >= self._silence:
            last_heard.gap_ended = now
        last_heard.sent = max(last_heard.sent, sent)

    def refused(self, observer: str, member_id: MemberId, now: int, data: bytes) -> None:
        """The process learned that its own datagram reached a kernel without the process it was meant for."""
        if data[_SENDER] == member_id:
            times = self._refused[observer].setdefault(MemberId(data[_RECEIVER]), deque(maxlen=_MISSES_NEEDED))
            times.append(now)

    def faults_changed(self, now: int, faults: Iterable[ActiveFault]) -> None:
        self.epochs.append(FaultEpoch(now, tuple(faults)))

    # -- Queries

    def last_sign(self, observer: str, member_id: MemberId) -> int | None:
        """When the newest datagram that the observer received from the subject was sent."""
        last_heard = self._heard[observer].get(member_id)
        return last_heard.sent if last_heard is not None else None

    def was_silent(self, observer: str, member_id: MemberId, now: int, window: int) -> bool:
        """Whether the observer has three misses of the subject, or had them within the last ``window`` µs.

        Both silence and refusals count as misses.
        """
        last_heard = self._heard[observer].get(member_id)
        if last_heard is not None and last_heard.gap_ended >= now - window:
            return True
        last = last_heard.sent if last_heard is not None else self._started_at[observer]
        missed = (now - last) * _MISSES_NEEDED // self._silence
        return missed + self._refusals_since(observer, member_id, last) >= _MISSES_NEEDED

    def was_refused(self, observer: str, member_id: MemberId) -> bool:
        """Whether the observer got three genuine refusals from the subject's host since it last heard the subject."""
        last_heard = self._heard[observer].get(member_id)
        last = last_heard.sent if last_heard is not None else self._started_at[observer]
        return self._refusals_since(observer, member_id, last) >= _MISSES_NEEDED

    def _refusals_since(self, observer: str, member_id: MemberId, last: int) -> int:
        return sum(at > last for at in self._refused[observer].get(member_id, ()))

    def continuously_reachable(
        self, subject: str, observer: str, everyone: Iterable[str], since: int, settled: int
    ) -> bool:
        """Whether no network fault since ``since`` can explain that ``observer`` evicted ``subject``.

        True if every other host either reached both over clean links or was cut off from both. Each cut must have
        lasted at least ``settled`` microseconds, so that no honest vote from behind it is still valid.
        """
        for number, epoch in enumerate(self.epochs):
            last = number + 1 == len(self.epochs)
            ended = None if last else self.epochs[number + 1].began
            if ended is not None and ended < since:
                continue
            if not self._is_same_side(epoch, subject, observer, everyone):
                return False
            if epoch.faults and ended is not None and ended - epoch.began < settled:
                return False
        return True

    @staticmethod
    def _is_same_side(epoch: FaultEpoch, subject: str, observer: str, everyone: Iterable[str]) -> bool:
        if not epoch.faults:
            return True
        if epoch.between(subject, observer) != "clean":
            return False
        for other in everyone:
            if other in (subject, observer):
                continue
            link = epoch.between(other, subject)
            if link == "bad" or link != epoch.between(other, observer):
                return False
        return True


def sender_id(data: bytes) -> MemberId:
    """The member id of a datagram's sender, from its header."""
    return MemberId(data[_SENDER])
