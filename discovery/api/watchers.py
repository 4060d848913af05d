"""Callers that wait for a change. They wake in batches, so that gossip stays on time.

A topic is a service or the event log; each has an index. A topic without waiting callers takes no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio


class Watchers:
    """The callers that wait for each topic. They wake only while :meth:`run` runs."""

    def __init__(self, current: Callable[[str], int], batch: int) -> None:
        self._current = current
        self._batch = batch
        self._parking_lots: dict[str, trio.lowlevel.ParkingLot] = {}
        self._seen_index: dict[str, int] = {}
        self._due: deque[tuple[trio.lowlevel.ParkingLot, int]] = deque()
        self._runner = trio.lowlevel.ParkingLot()
        self.closed = False

    def __len__(self) -> int:
        return sum(len(lot) for lot in self._parking_lots.values())

    async def wait_for_change(self, topic: str, index: int) -> bool:
        """Return True when the topic's index is no longer `index`, or False when the watchers have been closed."""
        while not self.closed and self._current(topic) == index:
            lot = self._parking_lots.setdefault(topic, trio.lowlevel.ParkingLot())
            self._seen_index[topic] = index
            try:
                await lot.park()
            finally:
                if not lot and self._parking_lots.get(topic) is lot:
                    del self._parking_lots[topic], self._seen_index[topic]
        return not self.closed

    def notify(self) -> None:
        """Wake the callers whose topic has changed."""
        for topic, lot in self._parking_lots.items():
            index = self._current(topic)
            if self._seen_index[topic] != index:
                self._seen_index[topic] = index
                self._due.append((lot, len(lot)))
        if self._due:
            self._runner.unpark()

    def close(self) -> None:
        """Wake all callers. Later calls do not wait."""
        self.closed = True
        self._due.extend((lot, len(lot)) for lot in self._parking_lots.values())
        self._runner.unpark()

    async def run(self) -> None:
        """Wake the due callers, one batch in each round of the loop. Never returns."""
        while True:
            if not self._due:
                await self._runner.park()
            while self._due:
                lot, count = self._due.popleft()
                # Tasks that park again queue behind this batch.
                while count > 0:
                    lot.unpark(count=min(count, self._batch))
                    count -= self._batch
                    await trio.lowlevel.checkpoint()
