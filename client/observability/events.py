"""What a pool has concluded, as a typed stream: `pool.events()`.

    async for event in pool.events():
        match event:
            case BreakerEvent(state="open"):
                print(event)

The rules:

- A stream begins with what happens after it was made, and ends when its pool is closed.
- It keeps up to MAX_WAITING events for a slow reader. Beyond, the oldest are dropped, and counted in `dropped`.
- A stream that nobody holds any more is forgotten.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import anyio

from rumormill.client.discovery.topology import Topology
from rumormill.client.selection.breaker import BreakerState, OpenReason
from rumormill.ring.worker import Worker

E = TypeVar("E", anyio.Event, threading.Event)

MAX_WAITING: Final = 1000
PROCESS_CHECK: Final = 1.0
"""Seconds after which a thread that waits looks whether it is in a forked child, to which no event comes."""


@dataclass(frozen=True, slots=True)
class TopologyEvent:
    """The pool believes another list of workers."""

    at: float
    """When, on the pool's clock, in seconds. Every event has it."""
    topology: Topology
    joined: tuple[Worker, ...]
    left: tuple[Worker, ...]
    """Workers that were evicted, or left."""
    changed: tuple[Worker, ...]
    """Workers with another liveness, readiness, weight or release than before, as they are now."""

    def __str__(self) -> str:
        parts = [
            *(f"{worker.name} joined" for worker in self.joined),
            *(f"{worker.name} is gone" for worker in self.left),
            *(f"{worker.name} is {worker.liveness}, {worker.readiness}" for worker in self.changed),
        ]
        return f"{len(self.topology.workers)} workers" + (f": {', '.join(parts)}" if parts else "")


@dataclass(frozen=True, slots=True)
class BreakerEvent:
    """A worker's circuit breaker has changed its state."""

    at: float
    worker: Worker
    state: BreakerState
    """`half_open` means that one request probes the worker now."""
    reason: OpenReason | None = None
    """Why it is not closed."""
    seconds: float = 0.0
    """How long it stays open."""

    def __str__(self) -> str:
        opened = f" for {self.seconds:.1f} s" if self.state == "open" else ""
        why = f" ({self.reason.name.lower()})" if self.reason is not None else ""
        return f"breaker of {self.worker.name}: {self.state}{opened}{why}"


@dataclass(frozen=True, slots=True)
class PanicEvent:
    """A worker that fails is still used: answers have opened the breakers of half of the workers already."""

    at: float
    worker: Worker

    def __str__(self) -> str:
        return f"more than half of the workers fail; {self.worker.name} is still used"


@dataclass(frozen=True, slots=True)
class FallbackEvent:
    """A caller got a fallback's answer."""

    at: float
    request: str
    """Method and path."""
    kind: str
    name: str
    """The name that the fallback was given."""
    reason: str
    """What the pool gave instead, for people."""

    def __str__(self) -> str:
        return f"{self.request} got the fallback {self.name!r}: {self.reason}"


PoolEvent = TopologyEvent | BreakerEvent | PanicEvent | FallbackEvent


class EventSink(Protocol):
    """Gets the events of a pool, in whatever thread they happen. It must not block."""

    def put(self, event: PoolEvent) -> None: ...

    def end(self) -> None:
        """The pool is closed."""


class EventHub:
    """Passes the events of one pool on to its sinks. It keeps none of them alive."""

    def __init__(self) -> None:
        self._sinks: tuple[weakref.ref[EventSink], ...] = ()

    def add(self, sink: EventSink) -> None:
        self._sinks = (*(known for known in self._sinks if known() is not None), weakref.ref(sink))

    def publish(self, event: PoolEvent) -> None:
        for known in self._sinks:
            if (sink := known()) is not None:
                sink.put(event)

    def close(self) -> None:
        for known in self._sinks:
            if (sink := known()) is not None:
                sink.end()


class _WaitingEvents(Generic[E]):
    """The events that a reader has not read yet, and what wakes it."""

    def __init__(self, news: E) -> None:
        self.dropped = 0
        """Events that the reader was too slow for."""
        self._events: deque[PoolEvent] = deque()
        self._news: E = news
        self._ended = False

    def put(self, event: PoolEvent) -> None:
        """Keep one more. The oldest goes if the reader is too slow."""
        self._events.append(event)
        if len(self._events) > MAX_WAITING:
            self._events.popleft()
            self.dropped += 1
        self._news.set()

    def end(self) -> None:
        """The pool is closed."""
        self._ended = True
        self._news.set()


class PoolEvents(_WaitingEvents[anyio.Event], AsyncIterator[PoolEvent]):
    """The events of an asynchronous pool."""

    def __init__(self) -> None:
        super().__init__(anyio.Event())

    async def __anext__(self) -> PoolEvent:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        return self._events.popleft()


class SyncPoolEvents(_WaitingEvents[threading.Event], Iterator[PoolEvent]):
    """The events of a synchronous pool. It ends in a child of the process that opened the pool."""

    def __init__(self, timeout: float | None) -> None:
        """With `timeout`, waiting longer than that for an event raises TimeoutError."""
        super().__init__(threading.Event())
        self._timeout = timeout
        self._process = os.getpid()

    def __next__(self) -> PoolEvent:
        left = float("inf") if self._timeout is None else self._timeout
        while os.getpid() == self._process:
            self._news.clear()
            if self._events:
                return self._events.popleft()
            if self._ended:
                break
            if left <= 0:
                raise TimeoutError(f"the pool has concluded nothing within {self._timeout:g} s")
            self._news.wait(min(left, PROCESS_CHECK))
            left -= PROCESS_CHECK
        raise StopIteration


def topology_event(before: Topology, after: Topology, now: float) -> TopologyEvent:
    """What is different. Workers are told apart by name and instance."""
    known = {(worker.name, worker.instance): worker for worker in before.workers}
    kept = {(worker.name, worker.instance): worker for worker in after.workers}
    return TopologyEvent(
        now,
        after,
        joined=tuple(worker for identity, worker in kept.items() if identity not in known),
        left=tuple(worker for identity, worker in known.items() if identity not in kept),
        changed=tuple(
            worker for identity, worker in kept.items() if identity in known and _differs(known[identity], worker)
        ),
    )


def _differs(before: Worker, after: Worker) -> bool:
    return _state(before) != _state(after)


def _state(worker: Worker) -> tuple[str, str, float, str]:
    return worker.liveness, worker.readiness, worker.weight, worker.release
