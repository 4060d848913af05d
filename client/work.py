"""What is under way at which worker, so that it can be ended when the worker is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio

from rumormill.client.exchange import Line
from rumormill.client.standing import Standings
from rumormill.client.topology import Place, place
from rumormill.ring.worker import Worker

T = TypeVar("T")


class WorkerLost(Exception):
    """The worker left the ring while this was under way; `reason` in words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Work:
    """Something one worker is doing for us, from the first byte sent until the answer is closed."""

    def __init__(self, register: Register, worker: Worker, line: Line, standings: Standings) -> None:
        self.worker = worker
        self.line = line
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
        """The worker has left the ring: end the step under way, and allow no other."""
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


class Register:
    """All work under way, by the place it is done at."""

    def __init__(self) -> None:
        self._at: dict[Place, set[Work]] = {}

    def begin(self, worker: Worker, line: Line, standings: Standings) -> Work:
        work = Work(self, worker, line, standings)
        self._at.setdefault(place(worker), set()).add(work)
        return work

    def forget(self, work: Work) -> None:
        here = self._at.get(place(work.worker))
        if here is not None:
            here.discard(work)
            if not here:
                del self._at[place(work.worker)]

    def lose(self, places: Mapping[Place, str]) -> None:
        """End the work at these places, each with its reason."""
        for lost, reason in places.items():
            for work in list(self._at.get(lost, ())):
                work.lose(reason)
