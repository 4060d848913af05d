"""Watches the sidecars: one task for each holds a blocking query at its endpoint, and their answers make the topology.

Which answer is believed is decided in topology.py.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

import anyio
import httpx2
import msgspec

from rumormill.client.discovery.clusters import ClusterChoice
from rumormill.client.discovery.topology import (
    NOT_ASKED,
    SidecarSource,
    Topology,
    nothing_known,
    select_source,
    stale_voters,
    with_answer,
    with_status,
)
from rumormill.client.runtime.descriptors import descriptor_shortage
from rumormill.discovery.schema.workers import WorkersAnswer

WAIT = 10.0
"""Seconds that a query blocks. Longer saves queries, and takes as much longer to notice a frozen sidecar."""
RESTARTED_WAIT = 1.0
"""The same at a sidecar that has just restarted."""
ANSWER_MARGIN = 2.0
"""Seconds that an answer may take beyond its wait."""
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds between two queries to a sidecar that does not answer. They double from the first to the longest, with
jitter."""
MIN_INTERVAL = 0.01
"""Minimum seconds between two answers of one sidecar. It limits the work that a storm of changes causes."""
MAX_LOOP_SHARE = 0.2
"""The share of the event loop's time that one sidecar's answers may take. A ring of a thousand workers is expensive."""
CONVERGENCE = 0.3
"""Seconds that sidecars have to agree before those with an old answer are asked again. The cluster is chosen that long
after the first answer, even if other sources have not answered."""
MAX_ANSWER = 32 * 2**20

log = logging.getLogger("rumormill.client")

_decode = msgspec.json.Decoder(WorkersAnswer).decode


class UnusableAnswer(Exception):
    """A sidecar's answer is not a list of workers. The message says what it is."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds for which the sidecar asks not to be queried again."""


class TopologyWatcher:
    """Keeps a topology current while :meth:`run` runs."""

    def __init__(
        self,
        sources: Sequence[str],
        service: str,
        *,
        http: httpx2.AsyncClient,
        base_urls: Mapping[str, str],
        cluster: str | None,
        rng: random.Random,
        on_change: Callable[[Topology], None],
    ) -> None:
        """`on_change` is called with every new topology, in order. `cluster` is the required one, if any.

        `base_urls` has a base URL for each source that is not a URL itself.
        """
        self.sources = [SidecarSource(url) for url in sources]
        self.topology = nothing_known(service)
        self.answer: WorkersAnswer | None = None
        """The answer that is believed, as it was received; None before the first."""
        self.ready = anyio.Event()
        """Set once an answer is believed, or every source has been asked in vain."""
        self._http = http
        self._base_urls = base_urls
        self._rng = rng
        self._on_change = on_change
        self._queries: dict[str, anyio.CancelScope] = {}
        self._recheck: set[str] = set()
        """URLs of sources to be queried again without a wait."""
        self._disagreement = anyio.Event()
        self._digest_mismatches: set[str] = set()
        """Sidecar processes whose mismatch was logged."""
        self._cluster = ClusterChoice(cluster)
        self._first_answer = anyio.Event()
        """Set by the first answer of any source."""
        self._choice_timed_out = False
        self._rejections_logged: set[str] = set()
        """URLs of sources whose foreign cluster was logged."""

    async def run(self) -> None:
        """Watch every source forever."""
        async with anyio.create_task_group() as tasks:
            for source in self.sources:
                tasks.start_soon(self._poll, source)
            tasks.start_soon(self._recheck_stale)
            await self._first_answer.wait()
            # Sources that are slow to answer may still decide on the cluster, but only for a moment.
            await anyio.sleep(CONVERGENCE)
            self._choice_timed_out = True
            self._reevaluate()

    def set_topology(self, answer: WorkersAnswer, topology: Topology) -> None:
        """Use this until a source says otherwise."""
        self.answer, self.topology = answer, topology
        self._on_change(topology)

    def steady_source(self, current: str) -> str:
        """The URL of this sidecar while it answers and is connected; else of the one that is believed. "" for none.

        A caller that reports to one sidecar must not change it without need: each keeps its report for a while.
        """
        for source in self.sources:
            if source.url == current and source.answering and source.answer and not source.answer.isolated:
                return current
        return self.topology.source if self.topology.origin == "sidecar" else ""

    async def _poll(self, source: SidecarSource) -> None:
        failures = 0
        while True:
            pause = MIN_INTERVAL
            with anyio.CancelScope() as self._queries[source.url]:
                try:
                    answer = await self._query(source, self._wait(source))
                except (httpx2.HTTPError, UnusableAnswer, TimeoutError) as error:
                    failures += 1
                    pause = max(self._backoff(failures), getattr(error, "retry_after", 0.0))
                    source.record_failure(descriptor_shortage(error) or str(error) or "no answer in time")
                else:
                    failures = 0
                    source.record_answer(answer, anyio.current_time())
                    self._first_answer.set()
                began = time.perf_counter()
                self._reevaluate()
                pause = max((time.perf_counter() - began) / MAX_LOOP_SHARE, pause)
            await anyio.sleep(pause)

    def _wait(self, source: SidecarSource) -> float:
        """Seconds that the next query may block: none for a source that has yet to show that it is alive."""
        if source.url in self._recheck or not source.answering:
            self._recheck.discard(source.url)
            return 0.0
        return RESTARTED_WAIT if source.just_restarted(anyio.current_time()) else WAIT

    def _backoff(self, failures: int) -> float:
        """Seconds until a sidecar with this many failures in a row is queried again."""
        return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE) * self._rng.uniform(0.5, 1.5)

    async def _query(self, source: SidecarSource, wait: float) -> WorkersAnswer:
        """One query. Raises httpx2.HTTPError, TimeoutError and :class:`UnusableAnswer`."""
        service = self.topology.service
        query = {"service": service}
        if wait and source.answer is not None:
            query |= {"index": str(source.answer.index), "process": source.answer.process, "wait": f"{wait:.0f}s"}
        # The server adds up to a sixteenth to a wait, so that its callers do not come back together.
        with anyio.fail_after(wait * 17 / 16 + ANSWER_MARGIN):
            async with self._http.stream(
                "GET", f"{self._base_urls.get(source.url, source.url)}/v1/workers", params=query
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise UnusableAnswer("its answer is larger than any list of workers")
        if response.status_code != httpx2.codes.OK:
            raise UnusableAnswer(_status_error(response.status_code, bytes(body)), self._retry_after(response))
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnusableAnswer(f"it is no rumormill sidecar, or of another version: {error}") from None
        if answer.service != service:
            raise UnusableAnswer(f"it answers for service {answer.service!r}")
        return answer

    def _retry_after(self, response: httpx2.Response) -> float:
        """The seconds that an error answer asks us to wait, up to a limit. Jitter keeps callers apart."""
        after = response.headers.get("retry-after", "")
        seconds = min(int(after), LONGEST_PAUSE) if after.isascii() and after.isdigit() and len(after) < 9 else 0.0
        return seconds * self._rng.uniform(1.0, 1.5)

    def _reevaluate(self) -> None:
        """A source has answered or failed: apply the rules again."""
        now = anyio.current_time()
        self._cluster.choose(self.sources, timed_out=self._choice_timed_out)
        chosen = select_source(self._cluster.members(self.sources), self.topology, now)
        troubles = tuple(f"{s.url}: {trouble}" for s in self.sources if (trouble := self._trouble(s)))
        if chosen is not None and chosen.answer is not None and chosen.answer is not self.answer:
            topology = with_answer(self.topology, chosen.answer, source=chosen.url, origin="sidecar", now=now)
            self.set_topology(chosen.answer, with_status(topology, heard=chosen.confirmed, troubles=troubles))
            self._check_digest(chosen.answer)
        else:
            heard = self.topology.heard if chosen is None else chosen.confirmed
            self.topology = with_status(self.topology, heard=heard, troubles=troubles)
            self._on_change(self.topology)
        asked = all(source.answering or source.trouble != NOT_ASKED for source in self.sources)
        if asked or (chosen is not None and not self.topology.isolated):
            self.ready.set()
        if stale_voters(self._cluster.members(self.sources)):
            self._disagreement.set()

    def _trouble(self, source: SidecarSource) -> str:
        """Why a source is not used, for people; "" if it is. A foreign cluster is logged once too."""
        if not source.answering:
            return source.trouble
        reason = self._cluster.rejection_reason(source)
        if reason and source.url not in self._rejections_logged:
            self._rejections_logged.add(source.url)
            log.warning(
                "the pool of %r does not use %s: %s; list sources of one cluster only, and name it with cluster=",
                self.topology.service,
                source.url,
                reason,
            )
        return reason

    def _check_digest(self, answer: WorkersAnswer) -> None:
        """Log once if a sidecar's digest differs from ours for the same workers: its keys then go elsewhere."""
        if self.topology.routing.digest != answer.routing_digest and answer.process not in self._digest_mismatches:
            self._digest_mismatches.add(answer.process)
            log.warning(
                "%s and this client disagree on where keys of %r go (%s, %s): they are of different versions",
                self.topology.source,
                answer.service,
                answer.routing_digest,
                self.topology.routing.digest,
            )

    async def _recheck_stale(self) -> None:
        """Query sources again that still contradict the newest answer after a moment. A frozen one loses its vote."""
        while True:
            await self._disagreement.wait()
            await anyio.sleep(CONVERGENCE)
            self._disagreement = anyio.Event()
            for source in stale_voters(self._cluster.members(self.sources)):
                self._recheck.add(source.url)
                self._queries[source.url].cancel()


def _status_error(status: int, body: bytes) -> str:
    """An error answer in one line: the problem's title if there is one."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"it answers {status}"
    return f"it answers {status}, {problem.title}" + (f" ({problem.detail})" if problem.detail else "")


class _Problem(msgspec.Struct):
    title: str
    detail: str = ""
