"""Whether anybody hears us: a member whose own datagrams are lost hears the others call it dead.

An accusation at our present incarnation is refuted, and that ends it. One that its sender repeats at an incarnation we
have raised, though we answered it a round trip ago, shows that this sender does not hear us; perhaps a datagram was
lost. From then on we *doubt*: three others are pinged each period. The first ack (or anything else that nobody could
say who had not heard us) ends the doubt. Where none comes for three periods and two round trips, nobody hears us.

Whoever holds the group key can make us doubt, which costs three pings a period; to end it takes one honest member.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId

CONFIRM_PERIODS = 3
"""Longer: a member whose datagrams are lost suspects the others first. Shorter: where a third of all datagrams is lost,
one in hundreds of doubts is held for the truth for a moment."""
MAX_REMEMBERED = 1024


class MuteDetector:
    """What shows whether we are heard. Times in seconds."""

    __slots__ = ("_confirm_after", "_first_answered", "_probes", "_state", "_suspected_since")

    def __init__(self, state: NodeState, pings: Probes) -> None:
        self._state = state
        self._probes = pings
        self._first_answered: dict[MemberId, tuple[int, float]] = {}
        """By accuser: the incarnation it accuses, and when we first answered that."""
        self._suspected_since = math.inf
        self._confirm_after = 0.0

    @property
    def deadline(self) -> float:
        """When doubt becomes certainty."""
        return self._suspected_since + self._confirm_after

    @property
    def suspected(self) -> bool:
        """Whether somebody does not hear us, and nobody has shown that he does."""
        return self._suspected_since < math.inf

    @property
    def confirmed(self) -> bool:
        """Whether nobody hears us."""
        return self._state.now >= self.deadline

    def on_accusation(self, sender: MemberState, incarnation: int) -> None:
        """A member holds us suspect or dead at an incarnation that we have raised, and is answered."""
        state, member_id = self._state, sender.member_id
        known, answered = self._first_answered.get(member_id, (-1, 0.0))
        round_trip = self._probes.rtt(member_id)
        if known != incarnation:
            self._first_answered[member_id] = (incarnation, state.now)
            if len(self._first_answered) > MAX_REMEMBERED:
                del self._first_answered[next(iter(self._first_answered))]
        elif not self.suspected and state.now - answered > max(state.settings.period / 2, round_trip):
            self._suspected_since = state.now
            self._confirm_after = CONFIRM_PERIODS * state.settings.period + 2 * round_trip

    def on_heard_by_peer(self) -> None:
        """Somebody said what nobody can who has not heard us."""
        self._suspected_since = math.inf

    def restart(self) -> None:
        """After a pause of our own: what others say is as old as that."""
        self._first_answered.clear()
        self.on_heard_by_peer()
