"""Callers that wait for something to change: woken together, in batches, so that gossip stays on time.

A topic is what an index belongs to: a service, or the event log. Nothing is kept for a topic nobody waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio


class Watchers:
    """Who waits for which topic. :meth:`run` must be running somewhere for anyone to be woken."""

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
        """Return True when the topic's index is no longer `index`, or False when the room has been closed."""
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
        """Something may have moved: wake those for whom it has."""
        for topic, lot in self._parking_lots.items():
            index = self._current(topic)
            if self._seen_index[topic] != index:
                self._seen_index[topic] = index
                self._due.append((lot, len(lot)))
        if self._due:
            self._runner.unpark()

    def close(self) -> None:
        """Wake everyone, and let nobody wait again."""
        self.closed = True
        self._due.extend((lot, len(lot)) for lot in self._parking_lots.values())
        self._runner.unpark()

    async def run(self) -> None:
        """Wake who is due, a batch in each round of the loop. Never returns."""
        while True:
            if not self._due:
                await self._runner.park()
            while self._due:
                lot, count = self._due.popleft()
                # Who parks again meanwhile stands behind those counted.
                while count > 0:
                    lot.unpark(count=min(count, self._batch))
                    count -= self._batch
                    await trio.lowlevel.checkpoint()
