"""Keeps the workers' loads fresh, and reports to the same sidecar what this client has under way.

The list of workers (topology_watcher.py) does not move with load, so loads have a blocking query of their own. It goes
to one sidecar for as long as that is of use, and is answered when any load has changed. While this client has requests
under way, it asks once a second, because each question carries its report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import anyio
import httpx2
import msgspec

from rumormill.client.discovery.doubts import DOUBTS_HEADER
from rumormill.client.discovery.request_counts import REPORT_HEADER, RequestCounts
from rumormill.client.runtime.shared_lock import SharedLock
from rumormill.discovery.schema.load import LoadAnswer

IDLE_WAIT: Final = 10.0
"""Seconds that a query blocks while this client has nothing under way."""
BUSY_WAIT: Final = 1.0
"""The same while it has. Larger: a report is older; sidecars believe it for 3 s."""
MIN_INTERVAL: Final = 0.5
"""Minimum seconds between two answers. Smaller: fresher loads, and more queries."""
NEWS_INTERVAL: Final = 0.05
"""Minimum seconds between two reports that do not wait. Smaller: a drain ends sooner, for more queries."""
ANSWER_MARGIN: Final = 2.0
"""Seconds that an answer may take beyond its wait."""
STALE: Final = 3.0
"""Seconds without an answer after which no load is known any more. None of the workers counts as full then."""
RETRY: Final = 0.5
LONGEST_RETRY: Final = 10.0
"""Seconds between two queries to a sidecar that does not answer, or has no room for callers that wait."""
UNSUPPORTED_RETRY: Final = 60.0
"""Seconds until a sidecar that has no such route (of an earlier version) is asked again."""
MAX_ANSWER: Final = 8 * 2**20

_decode = msgspec.json.Decoder(LoadAnswer).decode


class NoLoads(Exception):
    """A sidecar did not answer with loads. It is to be asked again after `retry` seconds at least."""

    def __init__(self, retry: float) -> None:
        super().__init__(retry)
        self.retry = retry


class LoadWatcher:
    """Watches the loads of one service while :meth:`run` runs."""

    def __init__(
        self,
        service: str,
        *,
        http: httpx2.AsyncClient,
        base_urls: Mapping[str, str],
        choose_source: Callable[[str], str],
        counts: RequestCounts,
        lock: SharedLock,
        on_loads: Callable[[Mapping[str, float]], None],
    ) -> None:
        """`choose_source` gets the sidecar that was asked before ("" at first), and returns the one to ask.

        Threads change `counts` under `lock`.

        `on_loads` gets the utilization of each worker whose load is known, by instance, with every answer.
        """
        self._service = service
        self._http = http
        self._base_urls = base_urls
        self._choose_source = choose_source
        self._source = ""
        self._counts = counts
        self._lock = lock
        self._on_loads = on_loads
        self._seen: tuple[str, LoadAnswer] | None = None
        """The sidecar that answered last, and its answer."""
        self._heard = float("-inf")
        self._failures = 0
        """In a row; an answer that did not block ends none, since a sidecar without room gives it too."""
        self._step = anyio.CancelScope()

    async def run(self) -> None:
        """Ask forever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._interrupt_for_news)
            while True:
                with anyio.CancelScope() as self._step:
                    await anyio.sleep(await self._ask_once())

    async def _ask_once(self) -> float:
        """One query, unless there is no sidecar to ask. Returns the seconds until the next."""
        pause = MIN_INTERVAL
        self._source = self._choose_source(self._source)
        if self._source:
            try:
                await self._ask(self._source)
            except (httpx2.HTTPError, TimeoutError, NoLoads) as error:
                self._failures += 1
                pause = max(getattr(error, "retry", 0.0), min(RETRY * 2.0 ** min(self._failures, 8), LONGEST_RETRY))
        if self._seen is not None and anyio.current_time() - self._heard > STALE:
            self._seen = None
            self._on_loads({})
        return pause

    async def _interrupt_for_news(self) -> None:
        """Cut the blocked query, or the pause, short when there is something to report: the next query does."""
        while True:
            await self._counts.news.wait()
            self._counts.news = anyio.Event()
            self._step.cancel()
            await anyio.sleep(NEWS_INTERVAL)

    async def _ask(self, source: str) -> None:
        """One query. Raises httpx2.HTTPError, TimeoutError and :class:`NoLoads`."""
        query = {"service": self._service}
        wait = BUSY_WAIT if self._counts.any_under_way else IDLE_WAIT
        if self._seen is not None and self._seen[0] == source:
            answer = self._seen[1]
            query |= {"index": str(answer.index), "process": answer.process, "wait": f"{wait:.0f}s"}
        with self._lock:
            report, doubts = self._counts.report(), self._counts.doubts.header()
        headers = {} if report is None else {REPORT_HEADER: report.header}
        if doubts is not None:
            headers[DOUBTS_HEADER] = doubts
        url = f"{self._base_urls.get(source, source)}/v1/load"
        with anyio.fail_after(wait * 17 / 16 + ANSWER_MARGIN):
            response = await self._http.get(url, params=query, headers=headers)
        if response.status_code != httpx2.codes.OK or len(response.content) > MAX_ANSWER:
            raise NoLoads(UNSUPPORTED_RETRY if response.status_code == httpx2.codes.NOT_FOUND else 0.0)
        try:
            answer = _decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise NoLoads(UNSUPPORTED_RETRY) from None
        with self._lock:
            if report is not None:
                self._counts.confirm(report)
            if doubts is not None:
                self._counts.doubts.confirm(doubts)
        self._heard = anyio.current_time()
        if "index" in query:
            self._failures = 0
        self._seen = (source, answer)
        self._on_loads({row.instance: row.utilization for row in answer.loads})
