"""Passes on to other sidecars what callers report here about their workers. Times in seconds.

A caller talks to one sidecar. What it says concerns all workers, and each worker is judged by its own sidecar:

* A worker that drains must know what is under way there: its sidecar is told with the next heartbeat.
* A worker that states no load has no counters. Requests that callers see finished show that it makes progress. Sidecars
  of such workers are told in turn, one at a time, so that a large pool costs no more than a small one. Each is told by
  every other sidecar that has callers.
* A caller that doubts a worker is heard at once, and at most once a second for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from rumormill.discovery.activity import CallerReport
from rumormill.gossip import Node
from rumormill.membership.load import CallerCounts
from rumormill.membership.record import COUNTER_LIMIT, MemberId, Readiness, member_id_of
from rumormill.membership.view import PoolView
from rumormill.sidecar.client_reports import ClientReports

TURN_SECONDS: Final = 0.5
"""Between two sidecars that are told of progress. Larger: fewer datagrams, and a busy worker without counters is seen
to make progress later."""
DOUBT_SECONDS: Final = 1.0
"""Between two doubts about one worker. Larger: a fault that follows another is looked for later."""


class ReportRelay:
    """What our callers say, on its way to those it concerns."""

    def __init__(self, node: Node, reports: ClientReports, wake: Callable[[], None]) -> None:
        """``wake`` makes the node's datagrams leave now."""
        self._node = node
        self._reports = reports
        self._wake = wake
        self._view: PoolView | None = None
        self._others: frozenset[MemberId] = frozenset()
        self._draining: list[MemberId] = []
        self._told: dict[MemberId, tuple[int, float]] = {}
        """How many finished requests each was last told of, and when."""
        self._next_turn = float("-inf")
        self._doubts: dict[MemberId, tuple[int, float]] = {}
        """How many doubts there were about each, and when the last of them was."""

    def pass_on(self, report: CallerReport, now: float) -> None:
        """A report has come: tell those that should hear of it."""
        others = self._known_others()
        counts = {
            member_id: self._counts(member_id, now)
            for member_id in self._draining
            if self._reports.under_way(member_id, now) is not None
        }
        waiting = [one for one in map(MemberId, report.workers) if one in others and self._has_news(one)]
        if waiting and now >= self._next_turn:
            self._next_turn = now + TURN_SECONDS
            turn = min(waiting, key=lambda member_id: self._told.get(member_id, (0, float("-inf")))[1])
            self._told[turn] = self._reports.finished(turn), now
            counts[turn] = self._counts(turn, now)
        if counts:
            self._node.tell_callers(counts, now)
            self._wake()
        if len(self._told) > len(others):
            self._told = {member_id: told for member_id, told in self._told.items() if member_id in others}

    def doubt(self, member_ids: Iterable[bytes], now: float) -> None:
        """A caller doubts these workers."""
        others = self._known_others()
        self._doubts = {member_id: doubts for member_id, doubts in self._doubts.items() if member_id in others}
        for member_id in map(MemberId, member_ids):
            number, at = self._doubts.get(member_id, (0, float("-inf")))
            if member_id in others and now - at >= DOUBT_SECONDS:
                self._doubts[member_id] = number + 1, now
                self._node.tell_callers({member_id: self._counts(member_id, now)}, now)
                self._wake()

    def _known_others(self) -> frozenset[MemberId]:
        """The other members that are present. Reports come far more often than the view changes."""
        view = self._node.view
        if view is not self._view:
            others = [m for m in view.members if m.liveness.present and m.instance != self._node.instance]
            self._view, self._others = view, frozenset(member_id_of(m.instance) for m in others)
            self._draining = [member_id_of(m.instance) for m in others if m.readiness is Readiness.DRAINING]
        return self._others

    def _has_news(self, member_id: MemberId) -> bool:
        told, _ = self._told.get(member_id, (0, 0.0))
        return self._reports.finished(member_id) > told and not self._node.load_view.is_stated(member_id)

    def _counts(self, member_id: MemberId, now: float) -> CallerCounts:
        under_way, (doubts, _) = self._reports.under_way(member_id, now), self._doubts.get(member_id, (0, 0.0))
        return CallerCounts(under_way or 0, min(self._reports.finished(member_id), COUNTER_LIMIT - 1), doubts)
