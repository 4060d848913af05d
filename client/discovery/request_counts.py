"""What this client has under way and has finished at each worker, and how it reports that to a sidecar.

A sidecar whose worker drains needs it to know when the last request has ended. The report goes with a query that the
client makes anyway (load_watcher.py), as the header ``Rumormill-Requests: CALLER;ID=UNDER_WAY/FINISHED,...``: which
caller this is, and for each worker the first half of its instance with two numbers. Doubts (doubts.py) go with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from rumormill.client.discovery.doubts import Doubts
from rumormill.client.discovery.topology import Topology
from rumormill.ring.worker import Worker

REPORT_HEADER: Final = "Rumormill-Requests"
MAX_REPORTED: Final = 64
"""Workers in one report; sidecars read no more. Draining ones come first."""
MAX_FORGOTTEN_AFTER: Final = 1024
"""Workers counted. Beyond, those without requests under way are forgotten."""


@dataclass(slots=True)
class _Count:
    under_way: int = 0
    finished: int = 0
    reported: tuple[int, int] = (0, 0)
    """What a sidecar has last got."""


@dataclass(frozen=True, slots=True)
class RequestReport:
    """One report. It counts as made only once it is confirmed."""

    header: str
    entries: dict[str, tuple[int, int]]
    """Requests under way and finished, by instance."""


class RequestCounts:
    """Counts of one pool, by the worker's instance."""

    def __init__(self) -> None:
        self.doubts = Doubts()
        """Workers that their sidecars are to look at now. They travel with the same query."""
        self._caller = secrets.token_hex(8)
        self._counts: dict[str, _Count] = {}
        self._draining: frozenset[str] = frozenset()
        self._total = 0
        self.news = anyio.Event()
        """Set when a report should not wait: something has ended at a worker that drains, a drain has begun, or a
        worker is doubted."""
        self.run_in_loop: Callable[[Callable[[], object]], object] = _call
        """Runs a function in the event loop in which `news` is awaited; requests may end in other threads."""

    @property
    def any_under_way(self) -> bool:
        return self._total > 0

    def begin(self, worker: Worker) -> None:
        if len(self._counts) >= MAX_FORGOTTEN_AFTER:
            self._counts = {instance: count for instance, count in self._counts.items() if count.under_way}
        self._count_of(worker).under_way += 1
        self._total += 1

    def end(self, worker: Worker, *, finished: bool = True) -> None:
        """A request is over. It is finished if the worker answered it to its end, and not with an error of its own: a
        sidecar takes finished requests for proof that the worker makes progress."""
        count = self._count_of(worker)
        count.under_way = max(count.under_way - 1, 0)
        count.finished += finished
        self._total -= 1
        if worker.instance in self._draining and count.under_way == 0:
            self.run_in_loop(self._set_news)

    def doubt(self, worker: Worker, now: float) -> None:
        """The worker has failed this client: tell its sidecar, unless that was done a moment ago."""
        if self.doubts.add(worker, now):
            self.run_in_loop(self._set_news)

    def _count_of(self, worker: Worker) -> _Count:
        count = self._counts.get(worker.instance)
        if count is None:
            count = self._counts[worker.instance] = _Count()
        return count

    def update(self, topology: Topology) -> None:
        """Learn which workers drain."""
        draining = frozenset(worker.instance for worker in topology.workers if worker.readiness == "draining")
        begun, self._draining = draining - self._draining, draining
        if any(instance in self._counts and self._counts[instance].under_way for instance in begun):
            self.run_in_loop(self._set_news)

    def report(self) -> RequestReport | None:
        """What is under way, or has changed since the last report that was confirmed; None for nothing."""
        due = [
            (instance, count)
            for instance, count in self._counts.items()
            if count.under_way or (count.under_way, count.finished) != count.reported
        ]
        if not due:
            return None
        due.sort(key=lambda item: (item[0] not in self._draining, -item[1].under_way))
        entries = {instance: (count.under_way, count.finished) for instance, count in due[:MAX_REPORTED]}
        listed = (f"{instance[:16]}={under_way}/{finished}" for instance, (under_way, finished) in entries.items())
        return RequestReport(f"{self._caller};{','.join(listed)}", entries)

    def confirm(self, report: RequestReport) -> None:
        """A sidecar has answered the query that carried this report. One that was cancelled may never have left."""
        for instance, numbers in report.entries.items():
            if instance in self._counts:
                self._counts[instance].reported = numbers

    def _set_news(self) -> None:
        self.news.set()


def _call(function: Callable[[], object]) -> None:
    function()
