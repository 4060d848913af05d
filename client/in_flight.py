"""What is under way at which worker, and whether its worker is still there.

Work is kept by the worker's URL: several sidecars may name one worker, and one sidecar may come back beside it under
another name. A worker that drains finishes its old work, even after it has left. One that is evicted without that is
asked directly (direct_check.py), for as long as it stays evicted and work is under way there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import anyio

from rumormill.client.topology import Topology
from rumormill.client.upstream import Upstream
from rumormill.client.worker_selector import WorkerSelector
from rumormill.ring.worker import Worker

T = TypeVar("T")


class WorkerLost(Exception):
    """The worker is gone, and this was under way there; `reason` in words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InFlightRequest:
    """Something one worker is doing for us, from the first byte sent until the answer is closed."""

    def __init__(
        self, register: InFlightRegistry, worker: Worker, line: Upstream, standings: WorkerSelector, *, evicted: bool
    ) -> None:
        self.worker = worker
        self.line = line
        self.begun_evicted = evicted
        """Its worker had been evicted when it began, and was asked all the same."""
        self._register = register
        self._standings = standings
        self._scope: anyio.CancelScope | None = None
        self._lost: str | None = None
        self._open = True
        line.in_use += 1
        standings.begin(worker)

    async def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step of the work. Raises :class:`WorkerLost` as soon as the worker is, and what the step raises."""
        if self._lost is not None:
            raise WorkerLost(self._lost)
        with anyio.CancelScope() as self._scope:
            return await step()
        raise WorkerLost(self._lost or "lost")

    def lose(self, reason: str) -> None:
        """The worker is gone: end the step under way, and allow no other."""
        self._lost = reason
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """It is over, one way or the other. Safe to repeat."""
        if self._open:
            self._open = False
            self.line.in_use -= 1
            self._standings.end(self.worker)
            self._register.forget(self)


class InFlight:
    """All that is under way at one worker."""

    def __init__(self, worker: Worker, *, evicted: bool) -> None:
        self.worker = worker
        """As it was last told of."""
        self.evicted = evicted
        self.check: anyio.CancelScope | None = None
        """Cancelled when the worker need not be asked directly any more; None while it is not."""
        self._work: set[InFlightRequest] = set()

    def __len__(self) -> int:
        return len(self._work)

    def add(self, work: InFlightRequest) -> None:
        self._work.add(work)

    def discard(self, work: InFlightRequest) -> None:
        self._work.discard(work)

    def hear(self, worker: Worker | None) -> None:
        """The worker as it is now known; None where the pool does not name it any more."""
        if worker is not None:
            self.worker, self.evicted = worker, False
            self.end_check()
        else:
            self.evicted = self.worker.readiness != "draining"

    def lose(self, why: str) -> None:
        """The worker takes no connection any more: end everything."""
        self._lose(list(self._work), why)

    def lose_older(self, why: str) -> None:
        """The worker has fallen silent: end what was begun while it was a member."""
        self._lose([work for work in self._work if not work.begun_evicted], why)

    def end_check(self) -> None:
        if self.check is not None:
            self.check.cancel()
            self.check = None

    def _lose(self, work: Iterable[InFlightRequest], why: str) -> None:
        for one in work:
            one.lose(f"{one.worker.name} was evicted or left, and {why}")


class InFlightRegistry:
    """All work under way, by the URL of the worker."""

    def __init__(self) -> None:
        self._at: dict[str, InFlight] = {}
        self._evicted = anyio.Event()

    def begin(self, worker: Worker, line: Upstream, standings: WorkerSelector) -> InFlightRequest:
        here = self._at.get(worker.url)
        if here is None:
            evicted = any(worker.url == gone.url for _, gone in standings.topology.departed)
            here = self._at[worker.url] = InFlight(worker, evicted=evicted)
            self._notice(here)
        work = InFlightRequest(self, worker, line, standings, evicted=here.evicted)
        here.add(work)
        return work

    def forget(self, work: InFlightRequest) -> None:
        here = self._at.get(work.worker.url)
        if here is not None:
            here.discard(work)
            if not here:
                here.end_check()
                del self._at[work.worker.url]

    def adopt(self, topology: Topology) -> None:
        """Hear which workers the pool names now."""
        if not self._at:
            return
        named: dict[str, Worker] = {}
        for worker in topology.workers:
            if worker.url in self._at and (worker.url not in named or worker.readiness != "draining"):
                named[worker.url] = worker
        for url, here in self._at.items():
            here.hear(named.get(url))
            self._notice(here)

    async def unchecked(self) -> list[InFlight]:
        """Wait for work at evicted workers that nobody checks."""
        while not (found := list(self._unchecked())):
            self._evicted = anyio.Event()
            await self._evicted.wait()
        return found

    def _unchecked(self) -> Iterator[InFlight]:
        return (here for here in self._at.values() if here.evicted and here.check is None)

    def _notice(self, here: InFlight) -> None:
        if here.evicted and here.check is None:
            self._evicted.set()
