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

DOUBT_PERIODS = 3
"""Longer: a member whose datagrams are lost suspects the others first. Shorter: where a third of all datagrams is lost,
one in hundreds of doubts is held for the truth for a moment."""
MAX_REMEMBERED = 1024


class MuteDetector:
    """What shows whether we are heard. Times in seconds."""

    __slots__ = ("_answered", "_doubted_since", "_patience", "_probes", "_state")

    def __init__(self, state: NodeState, pings: Probes) -> None:
        self._state = state
        self._probes = pings
        self._answered: dict[MemberId, tuple[int, float]] = {}
        """By accuser: the incarnation it accuses, and when we first answered that."""
        self._doubted_since = math.inf
        self._patience = 0.0

    @property
    def deadline(self) -> float:
        """When doubt becomes certainty."""
        return self._doubted_since + self._patience

    @property
    def doubted(self) -> bool:
        """Whether somebody does not hear us, and nobody has shown that he does."""
        return self._doubted_since < math.inf

    @property
    def nobody(self) -> bool:
        """Whether nobody hears us."""
        return self._state.now >= self.deadline

    def accused(self, sender: MemberState, incarnation: int) -> None:
        """A member holds us suspect or dead at an incarnation that we have raised, and is answered."""
        state, member_id = self._state, sender.member_id
        known, answered = self._answered.get(member_id, (-1, 0.0))
        round_trip = self._probes.rtt(member_id)
        if known != incarnation:
            self._answered[member_id] = (incarnation, state.now)
            if len(self._answered) > MAX_REMEMBERED:
                del self._answered[next(iter(self._answered))]
        elif not self.doubted and state.now - answered > max(state.settings.period / 2, round_trip):
            self._doubted_since = state.now
            self._patience = DOUBT_PERIODS * state.settings.period + 2 * round_trip

    def heard(self) -> None:
        """Somebody said what nobody can who has not heard us."""
        self._doubted_since = math.inf

    def restart(self) -> None:
        """After a pause of our own: what others say is as old as that."""
        self._answered.clear()
        self.heard()
