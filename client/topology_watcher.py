"""The pool's eyes: one task per sidecar with a blocked query at its endpoint, and the belief made of their answers.

What to believe is decided in topology.py.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

import anyio
import httpx
import msgspec

from rumormill.client.clusters import ClusterChoice
from rumormill.client.descriptors import descriptor_shortage
from rumormill.client.topology import (
    NOT_ASKED,
    SidecarSource,
    Topology,
    believed_source,
    nothing_known,
    stale_voters,
    with_answer,
    with_status,
)
from rumormill.discovery.schema.workers import WorkersAnswer

WAIT = 10.0
"""Seconds a query is blocked. Longer saves queries, and takes as much longer to notice a sidecar that froze."""
NEWBORN_WAIT = 1.0
LATE = 2.0
"""Seconds beyond its wait that an answer may take; also what one without a wait may."""
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds between tries of a sidecar that does not answer, doubling from the first to the longest, jittered."""
PACE = 0.01
"""Seconds between two answers of one sidecar, at least: a storm of changes is seen at this rate."""
SHARE = 0.2
"""Of the loop's time, at most, for taking in what one sidecar says: a ring of a thousand workers takes its time."""
CONVERGENCE = 0.3
"""Seconds sidecars are given to agree by themselves before those that lag are asked again, and to answer at all before
the others decide on the cluster."""
MAX_ANSWER = 32 * 2**20

log = logging.getLogger("rumormill.client")

_decode = msgspec.json.Decoder(WorkersAnswer).decode


class UnusableAnswer(Exception):
    """A sidecar answered something that is no list of workers; the message says what."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds in which it does not want to be asked again."""


class TopologyWatcher:
    """Keeps a topology current for as long as :meth:`run` runs."""

    def __init__(
        self,
        sources: Sequence[str],
        service: str,
        *,
        http: httpx.AsyncClient,
        bases: Mapping[str, str],
        cluster: str | None,
        rng: random.Random,
        adopt: Callable[[Topology], None],
    ) -> None:
        """`adopt` is called with every new topology, in order; `bases` has the base URLs of sources that are none.

        `cluster` is the one insisted on.
        """
        self.sources = [SidecarSource(url) for url in sources]
        self.topology = nothing_known(service)
        self.answer: WorkersAnswer | None = None
        """What is believed, as it was told; None before anyone has."""
        self.ready = anyio.Event()
        """Set once something is believed, or all have been asked in vain."""
        self._http = http
        self._bases = bases
        self._rng = rng
        self._adopt = adopt
        self._queries: dict[str, anyio.CancelScope] = {}
        self._doubted: set[str] = set()
        """URLs to be asked again without a wait."""
        self._disagreed = anyio.Event()
        self._compared: set[str] = set()
        self._cluster = ClusterChoice(cluster)
        self._heard = anyio.Event()
        """Set by the first answer of any source."""
        self._waited = False
        self._objected: set[str] = set()
        """URLs of sources that were said to be of another cluster."""

    async def run(self) -> None:
        """Watch every source, for ever."""
        async with anyio.create_task_group() as tasks:
            for source in self.sources:
                tasks.start_soon(self._follow, source)
            tasks.start_soon(self._referee)
            await self._heard.wait()
            # Those that are slow to answer at all may decide on the cluster, but not for ever.
            await anyio.sleep(CONVERGENCE)
            self._waited = True
            self._consider()

    def believe(self, answer: WorkersAnswer, topology: Topology) -> None:
        """Take this as what holds, until a source says otherwise."""
        self.answer, self.topology = answer, topology
        self._adopt(topology)

    async def _follow(self, source: SidecarSource) -> None:
        failures = 0
        while True:
            pace = PACE
            with anyio.CancelScope() as self._queries[source.url]:
                try:
                    answer = await self._ask(source, self._wait(source))
                except (httpx.HTTPError, UnusableAnswer, TimeoutError) as error:
                    failures += 1
                    pace = max(self._pause(failures), getattr(error, "retry_after", 0.0))
                    source.fail(descriptor_shortage(error) or str(error) or "no answer in time")
                else:
                    failures = 0
                    source.take(answer, anyio.current_time())
                    self._heard.set()
                began = time.perf_counter()
                self._consider()
                pace = max((time.perf_counter() - began) / SHARE, pace)
            await anyio.sleep(pace)

    def _wait(self, source: SidecarSource) -> float:
        """Seconds the next query may be blocked: none for a source that has yet to show that it is there."""
        if source.url in self._doubted or not source.answering:
            self._doubted.discard(source.url)
            return 0.0
        return NEWBORN_WAIT if source.newborn(anyio.current_time()) else WAIT

    def _pause(self, failures: int) -> float:
        """Seconds until a sidecar that has failed so often is tried again."""
        return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE) * self._rng.uniform(0.5, 1.5)

    async def _ask(self, source: SidecarSource, wait: float) -> WorkersAnswer:
        """One query. Raises httpx.HTTPError, TimeoutError and :class:`UnusableAnswer`."""
        service = self.topology.service
        query = {"service": service}
        if wait and source.answer is not None:
            query |= {"index": str(source.answer.index), "process": source.answer.process, "wait": f"{wait:.0f}s"}
        # The server adds up to a sixteenth to a wait, so that callers do not come back together.
        with anyio.fail_after(wait * 17 / 16 + LATE):
            async with self._http.stream(
                "GET", f"{self._bases.get(source.url, source.url)}/v1/workers", params=query
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise UnusableAnswer("it answers with more than any list of workers can be")
        if response.status_code != httpx.codes.OK:
            raise UnusableAnswer(_refusal(response.status_code, bytes(body)), self._asked_for(response))
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnusableAnswer(f"it is no rumormill sidecar, or of another version: {error}") from None
        if answer.service != service:
            raise UnusableAnswer(f"it answers for service {answer.service!r}")
        return answer

    def _asked_for(self, response: httpx.Response) -> float:
        """The seconds that a refusal asks us to wait, as far as we believe it; jittered, so that not all come back."""
        after = response.headers.get("retry-after", "")
        seconds = min(int(after), LONGEST_PAUSE) if after.isascii() and after.isdigit() and len(after) < 9 else 0.0
        return seconds * self._rng.uniform(1.0, 1.5)

    def _consider(self) -> None:
        """A source has answered or failed: believe what the rules say."""
        now = anyio.current_time()
        self._cluster.choose(self.sources, waited=self._waited)
        chosen = believed_source(self._cluster.own(self.sources), self.topology, now)
        troubles = tuple(f"{s.url}: {trouble}" for s in self.sources if (trouble := self._trouble(s)))
        if chosen is not None and chosen.answer is not None and chosen.answer is not self.answer:
            topology = with_answer(self.topology, chosen.answer, source=chosen.url, origin="sidecar", now=now)
            self.believe(chosen.answer, with_status(topology, heard=chosen.confirmed, troubles=troubles))
            self._compare(chosen.answer)
        else:
            heard = self.topology.heard if chosen is None else chosen.confirmed
            self.topology = with_status(self.topology, heard=heard, troubles=troubles)
            self._adopt(self.topology)
        asked = all(source.answering or source.trouble != NOT_ASKED for source in self.sources)
        if asked or (chosen is not None and not self.topology.isolated):
            self.ready.set()
        if stale_voters(self._cluster.own(self.sources)):
            self._disagreed.set()

    def _trouble(self, source: SidecarSource) -> str:
        """Why a source does not count, in words; "" where it does. Another cluster is said once in the log too."""
        if not source.answering:
            return source.trouble
        objection = self._cluster.objection(source)
        if objection and source.url not in self._objected:
            self._objected.add(source.url)
            log.warning(
                "%s does not count for the pool of %r: %s; list sources of one cluster only, and name it with cluster=",
                source.url,
                self.topology.service,
                objection,
            )
        return objection

    def _compare(self, answer: WorkersAnswer) -> None:
        """Say once if a sidecar's digest is not ours for the same workers: its keys go elsewhere than ours."""
        if self.topology.routing.digest != answer.routing_digest and answer.process not in self._compared:
            self._compared.add(answer.process)
            log.warning(
                "%s and this client disagree on where keys of %r go (%s, %s): they are of different versions",
                self.topology.source,
                answer.service,
                answer.routing_digest,
                self.topology.routing.digest,
            )

    async def _referee(self) -> None:
        """Ask those again that still contradict the newest answer after a moment: one that froze loses its vote so."""
        while True:
            await self._disagreed.wait()
            await anyio.sleep(CONVERGENCE)
            self._disagreed = anyio.Event()
            for source in stale_voters(self._cluster.own(self.sources)):
                self._doubted.add(source.url)
                self._queries[source.url].cancel()


def _refusal(status: int, body: bytes) -> str:
    """An error answer in one line: the problem's title where there is one."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"it answers {status}"
    return f"it answers {status}, {problem.title}" + (f" ({problem.detail})" if problem.detail else "")


class _Problem(msgspec.Struct):
    title: str
    detail: str = ""
