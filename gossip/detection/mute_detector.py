"""Notices that nobody receives what we send: we hear the others, and they call us dead.

We refute an accusation at our present incarnation, and that ends it. A sender that repeats an accusation at an
incarnation that we have already raised, a round trip after our answer, has not received the answer. One datagram may
have been lost, so at first we only *suspect* that nobody hears us, and ping three members each period. The first ack
ends the suspicion, and so does anything else that only a member that hears us can say. If none comes for three periods
and two round trips, it is confirmed that nobody hears us.

A false accuser that holds the group key can make us suspect this, which costs three pings a period. One honest member
ends it.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

CONFIRM_PERIODS = 3
"""Larger: a member whose datagrams are lost has time to suspect the others. Smaller: where a third of all datagrams is
lost, one suspicion in some hundreds is confirmed wrongly, for a moment."""
MAX_REMEMBERED = 1024


class MuteDetector:
    """The evidence for and against being heard. Times in seconds."""

    __slots__ = ("_confirm_after", "_first_answered", "_probes", "_state", "_suspected_since")

    def __init__(self, state: NodeState, probes: Probes) -> None:
        self._state = state
        self._probes = probes
        self._first_answered: dict[MemberId, tuple[int, float]] = {}
        """By accuser: the incarnation it accuses, and when we first answered."""
        self._suspected_since = math.inf
        self._confirm_after = 0.0

    @property
    def deadline(self) -> float:
        """When the suspicion is confirmed unless a member shows that it hears us."""
        return self._suspected_since + self._confirm_after

    @property
    def suspected(self) -> bool:
        """Whether one member does not hear us, and no other has shown that it does."""
        return self._suspected_since < math.inf

    @property
    def confirmed(self) -> bool:
        """Whether nobody hears us."""
        return self._state.now >= self.deadline

    def on_accusation(self, sender: MemberState, incarnation: int) -> None:
        """A member holds us suspect or dead at an incarnation that we have raised. It is answered each time."""
        state, accuser = self._state, sender.member_id
        known, answered = self._first_answered.get(accuser, (-1, 0.0))
        round_trip = self._probes.rtt(accuser)
        if known != incarnation:
            self._remember_answer(accuser, incarnation)
        elif not self.suspected and state.now - answered > max(state.settings.period / 2, round_trip):
            self._suspected_since = state.now
            self._confirm_after = CONFIRM_PERIODS * state.settings.period + 2 * round_trip

    def on_heard_by_peer(self) -> None:
        """A member said something that only a member that hears us can say."""
        self._suspected_since = math.inf

    def restart(self) -> None:
        """After a pause of our own: what others say of us is as old as the pause."""
        self._first_answered.clear()
        self.on_heard_by_peer()

    def _remember_answer(self, accuser: MemberId, incarnation: int) -> None:
        self._first_answered[accuser] = (incarnation, self._state.now)
        if len(self._first_answered) > MAX_REMEMBERED:
            del self._first_answered[next(iter(self._first_answered))]
