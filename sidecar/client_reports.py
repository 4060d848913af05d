"""What callers say they have under way at each worker. Pure; times in seconds.

Each caller reports its whole state again at least once a second while it has anything under way, so a report that is
not renewed is void. Reports are hints from outside: bounded here, and used only for the end of a drain, and for
progress where an engine has no counters. Growth by more than a million in one report is cut to that.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rumormill.discovery.activity import MAX_REPORTED, CallerReport

REPORT_LIFE: Final = 3.0
"""Seconds that a report stands. Larger: a caller that died holds up a drain for longer."""
MAX_CALLERS: Final = 4096
"""Callers whose reports are kept. Those beyond are not counted."""
MAX_COUNTED_WORKERS: Final = 10_000


class ClientReports:
    """The latest report of each caller."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[float, CallerReport]] = {}
        self._finished: Counter[bytes] = Counter()

    def take(self, report: CallerReport, now: float) -> None:
        """A caller reported. Its former report is void."""
        before = self._latest.pop(report.caller, None)
        if before is None and len(self._latest) >= MAX_CALLERS:
            self._drop_old(now)
            if len(self._latest) >= MAX_CALLERS:
                return
        self._latest[report.caller] = (now, report)
        if before is not None:
            self._count_finished(before[1], report)

    def under_way(self, member_id: bytes, now: float) -> int | None:
        """Requests under way at a worker, by all valid reports that name it; None if none does."""
        counts = [
            report.workers[member_id].under_way
            for at, report in self._latest.values()
            if now - at < REPORT_LIFE and member_id in report.workers
        ]
        return sum(counts) if counts else None

    def finished(self, member_id: bytes) -> int:
        """Requests that callers reported finished at a worker since this sidecar started. Only growth counts."""
        return self._finished[member_id]

    def _count_finished(self, before: CallerReport, after: CallerReport) -> None:
        for member_id, now in after.workers.items():
            then = before.workers.get(member_id)
            if then is not None and now.finished > then.finished and self._may_count(member_id):
                self._finished[member_id] += min(now.finished - then.finished, MAX_REPORTED)

    def _may_count(self, member_id: bytes) -> bool:
        return member_id in self._finished or len(self._finished) < MAX_COUNTED_WORKERS

    def _drop_old(self, now: float) -> None:
        self._latest = {caller: kept for caller, kept in self._latest.items() if now - kept[0] < REPORT_LIFE}
