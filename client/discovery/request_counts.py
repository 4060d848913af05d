"""What this client has under way and has finished at each worker, and how it reports that to a sidecar. Pure.

A sidecar whose worker drains needs it to know when the last request has ended. The report goes with a query that the
client makes anyway (load_watcher.py), as the header ``Rumormill-Requests: CALLER;ID=UNDER_WAY/FINISHED,...``: which
caller this is, and for each worker the first half of its instance with two numbers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

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
    """What was last reported."""


class RequestCounts:
    """Counts of one pool, by the worker's instance."""

    def __init__(self) -> None:
        self._caller = secrets.token_hex(8)
        self._counts: dict[str, _Count] = {}
        self._draining: frozenset[str] = frozenset()
        self._total = 0
        self.news = anyio.Event()
        """Set when a report should not wait: something has ended at a worker that drains, or a drain has begun."""
        self.run_in_loop: Callable[[Callable[[], object]], object] = _call
        """Runs a function in the event loop in which `news` is awaited; requests may end in other threads."""

    @property
    def any_under_way(self) -> bool:
        return self._total > 0

    def begin(self, worker: Worker) -> None:
        if len(self._counts) >= MAX_FORGOTTEN_AFTER:
            self._counts = {instance: count for instance, count in self._counts.items() if count.under_way}
        self._counts.setdefault(worker.instance, _Count()).under_way += 1
        self._total += 1

    def end(self, worker: Worker, *, finished: bool = True) -> None:
        """A request is over. It is finished if the worker answered it to its end, and not with an error of its own: a
        sidecar takes finished requests for proof that the worker gets on."""
        count = self._counts.setdefault(worker.instance, _Count())
        count.under_way = max(count.under_way - 1, 0)
        count.finished += finished
        self._total -= 1
        if worker.instance in self._draining and count.under_way == 0:
            self.run_in_loop(self._set_news)

    def update(self, topology: Topology) -> None:
        """Learn which workers drain."""
        draining = frozenset(worker.instance for worker in topology.workers if worker.readiness == "draining")
        begun, self._draining = draining - self._draining, draining
        if any(instance in self._counts and self._counts[instance].under_way for instance in begun):
            self.run_in_loop(self._set_news)

    def report(self) -> str | None:
        """The header's value, with what is under way or has changed since the last report; None for nothing."""
        due = [
            (instance, count)
            for instance, count in self._counts.items()
            if count.under_way or (count.under_way, count.finished) != count.reported
        ]
        if not due:
            return None
        due.sort(key=lambda item: (item[0] not in self._draining, -item[1].under_way))
        entries = []
        for instance, count in due[:MAX_REPORTED]:
            count.reported = (count.under_way, count.finished)
            entries.append(f"{instance[:16]}={count.under_way}/{count.finished}")
        return f"{self._caller};{','.join(entries)}"

    def _set_news(self) -> None:
        self.news.set()


def _call(function: Callable[[], object]) -> None:
    function()
