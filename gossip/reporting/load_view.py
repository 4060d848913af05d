"""Which members' loads are known now.

A figure holds until its member states another, as long as the member is heard: its heartbeats are its confirmation.
It is *unknown*, and never taken for full or idle, when

* the member says that it cannot tell;
* the member has been suspect for :data:`STALE_SECONDS`, or is gone;
* this observer has had no datagram with a figure from the member itself for so long that several probes must have
  failed: others still hear the member, but it cannot reach us.
"""

from __future__ import annotations

from collections.abc import Callable

from rumormill.gossip.state import NodeState
from rumormill.membership.load import Load, MemberLoad
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import InstanceId, MemberId

STALE_SECONDS = 3.0
MISSED_ROUNDS = 3
"""Rounds of the slow probe, each of which brings every member's figure, after which a silent figure is unknown."""


class LoadView:
    """The loads of all members, as a node shows them."""

    __slots__ = ("_ahead", "_state")

    def __init__(self, state: NodeState, ahead: Callable[[], float]) -> None:
        """``ahead`` gives the seconds by which the node's time is ahead of the caller's clock."""
        self._state = state
        self._ahead = ahead

    @property
    def version(self) -> tuple[int, int]:
        """Moves when any figure changes. A figure that grows stale moves nothing: that is told by the time."""
        own = self._state.own_load.figure
        return self._state.loads.version, own.number if own is not None else 0

    def loads(self, now: float) -> dict[InstanceId, MemberLoad]:
        """The known loads of present members, our own included, by instance."""
        state, now = self._state, now + self._ahead()
        found = {}
        for member_id in state.table.present_ids:
            row = state.table.get(member_id)
            if row is not None and (load := self._load(row, now)) is not None:
                found[row.instance] = load
        return found

    def under_way_here(self, now: float, max_age: float) -> int | None:
        """Requests in flight at our worker, as other members' callers told them in the last ``max_age`` seconds; None
        if nobody said anything."""
        now += self._ahead()
        return self._state.callers.under_way(now - max_age)

    @property
    def finished_here(self) -> int:
        """Requests that other members' callers saw answered by our worker. Only growth means anything."""
        return self._state.callers.finished

    def is_stated(self, member_id: MemberId) -> bool:
        """Whether a member states its worker's load."""
        figure = self._state.loads.figures.get(member_id)
        return figure is not None and figure.utilization is not None

    def _load(self, row: MemberState, now: float) -> MemberLoad | None:
        state, member_id = self._state, row.member_id
        if row is state.me:
            return _shown(state.own_load.figure, now)
        if self._is_stale(member_id, now):
            return None
        return _shown(state.loads.figures.get(member_id), state.loads.heard.get(member_id, now))

    def _is_stale(self, member_id: MemberId, now: float) -> bool:
        state = self._state
        if now - state.suspect_since.get(member_id, now) > STALE_SECONDS:
            return True
        rounds = MISSED_ROUNDS * len(state.table.present_ids) * state.settings.slow_probe
        return now - state.loads.heard.get(member_id, now) > max(rounds, STALE_SECONDS)


def _shown(figure: Load | None, heard: float) -> MemberLoad | None:
    if figure is None or figure.utilization is None:
        return None
    return MemberLoad(figure.utilization / 1000, figure.queue, heard)
