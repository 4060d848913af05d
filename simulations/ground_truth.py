"""What really happened, as nobody inside the world can know it: who heard whom when, and who could reach whom.

The judge holds conclusions of members against this. It is kept from the outside, from datagrams as they leave and as
they are taken in, and shares nothing with the protocol but the place of the sender in a datagram's header.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from rumormill.gossip.security.seal import UNKNOWN_RECEIVER, Seal
from rumormill.membership.record import MEMBER_ID_BYTES, MemberId
from rumormill.simulations.host import SimulatedHost
from rumormill.simulations.network import ActiveFault

_SENDER = slice(10, 10 + MEMBER_ID_BYTES)
_RECEIVER = slice(18, 18 + MEMBER_ID_BYTES)
"""Where the header of a datagram names its sender and its receiver (gossip/security/seal.py)."""
_PROOF = 3
"""Misses, each a period of silence or a true refusal since the last sign of life."""
_REMEMBER = 30_000_000
"""Microseconds for which the moment a datagram was first sent is remembered."""


@dataclass(slots=True)
class Hearing:
    """One observer's ears, about one subject. Microseconds of the world."""

    last: int
    """When the latest sign of life that was taken in had been sent."""
    gap_ended: int = -1
    """When the latest silence of three periods ended, -1 if there was none."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of time in which the network had the same faults."""

    began: int
    faults: tuple[ActiveFault, ...]

    def link(self, source: str, target: str) -> str:
        """``clean``, ``cut`` or ``bad``: what stands on the link from one host to another."""
        state = "clean"
        for fault in self.faults:
            if (fault.sources is None or source in fault.sources) and (
                fault.targets is None or target in fault.targets
            ):
                if fault.trouble.cut:
                    return "cut"
                state = "bad"
        return state

    def between(self, one: str, other: str) -> str:
        """``clean`` or ``cut`` where that holds both ways, else ``bad``."""
        there, back = self.link(one, other), self.link(other, one)
        return there if there == back else "bad"


class GroundTruth:
    """The record of the outside observer. ``silence`` is what three misses take at least, in microseconds."""

    def __init__(self, silence: int) -> None:
        self._silence = silence
        self._sent: dict[bytes, int] = {}
        self._order: deque[tuple[int, bytes]] = deque()
        self._hearing: dict[str, dict[MemberId, Hearing]] = {}
        self._refused: dict[str, dict[MemberId, deque[int]]] = {}
        """When the latest refusals of what an observer had sent to a subject came in."""
        self._born: dict[str, int] = {}
        self.epochs = [Epoch(0, ())]

    # -- What happens

    def born(self, host: SimulatedHost, now: int) -> None:
        """A process started: it has heard nobody yet."""
        self._born[host.key] = now
        self._hearing[host.key] = {}
        self._refused[host.key] = {}

    def sent(self, now: int, data: bytes) -> None:
        """A datagram left for the first time, or was handed on."""
        if data in self._sent:
            return
        self._sent[data] = now
        order = self._order
        order.append((now, data))
        while order[0][0] < now - _REMEMBER:
            del self._sent[order.popleft()[1]]

    def taken_in(self, observer: str, member_id: MemberId, now: int, data: bytes) -> None:
        """A process of that half was handed a datagram. One that only passes through it to somebody else, who asked it
        for help, is not for its ears; nor is what any holder of the group key could have said in the sender's name."""
        sent = self._sent.get(data)
        if sent is None or Seal.is_from_stranger(data) or data[_RECEIVER] not in (member_id, UNKNOWN_RECEIVER):
            return
        hearings = self._hearing[observer]
        sender = sender_id(data)
        hearing = hearings.get(sender)
        if hearing is None:
            hearing = hearings[sender] = Hearing(self._born[observer])
        if now - hearing.last >= self._silence:
            hearing.gap_ended = now
        hearing.last = max(hearing.last, sent)

    def refused(self, observer: str, member_id: MemberId, now: int, data: bytes) -> None:
        """A process of that half was told that a datagram of its own met a kernel without the process it was for."""
        if data[_SENDER] == member_id:
            times = self._refused[observer].setdefault(MemberId(data[_RECEIVER]), deque(maxlen=_PROOF))
            times.append(now)

    def faults_changed(self, now: int, faults: Iterable[ActiveFault]) -> None:
        self.epochs.append(Epoch(now, tuple(faults)))

    # -- What can be asked

    def last_sign(self, observer: str, member_id: MemberId) -> int | None:
        """When the latest datagram of the subject that the observer has taken in had been sent."""
        hearing = self._hearing[observer].get(member_id)
        return hearing.last if hearing is not None else None

    def was_silent(self, observer: str, member_id: MemberId, now: int, lately: int) -> bool:
        """Whether an observer has three misses of a subject now, by silence or by refusal, or had until ``lately`` µs
        ago."""
        hearing = self._hearing[observer].get(member_id)
        if hearing is not None and hearing.gap_ended >= now - lately:
            return True
        last = hearing.last if hearing is not None else self._born[observer]
        missed = (now - last) * _PROOF // self._silence
        return missed + self._refusals_since(observer, member_id, last) >= _PROOF

    def was_refused(self, observer: str, member_id: MemberId) -> bool:
        """Whether what an observer sent to a subject was truly refused thrice after the last sign it had of it."""
        hearing = self._hearing[observer].get(member_id)
        last = hearing.last if hearing is not None else self._born[observer]
        return self._refusals_since(observer, member_id, last) >= _PROOF

    def _refusals_since(self, observer: str, member_id: MemberId, last: int) -> int:
        return sum(at > last for at in self._refused[observer].get(member_id, ()))

    def heard_throughout(self, subject: str, observer: str, everyone: Iterable[str], since: int, settled: int) -> bool:
        """Whether nothing in the network can excuse ``observer`` for thinking ``subject`` dead, from ``since`` on.

        That is so where everyone was either in touch with both over clean links, or cut off from both; and where no cut
        was shorter than ``settled`` microseconds, so that no honest vote from beyond it can still be about.
        """
        for number, epoch in enumerate(self.epochs):
            last = number + 1 == len(self.epochs)
            ended = None if last else self.epochs[number + 1].began
            if ended is not None and ended < since:
                continue
            if not self._one_side(epoch, subject, observer, everyone):
                return False
            if epoch.faults and ended is not None and ended - epoch.began < settled:
                return False
        return True

    @staticmethod
    def _one_side(epoch: Epoch, subject: str, observer: str, everyone: Iterable[str]) -> bool:
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
    """Whose header a datagram carries."""
    return MemberId(data[_SENDER])
