"""Gossip comes first: requests are answered in batches, and the loop runs other tasks between two batches.

The epoll multiplexer (streams.py) wakes few callers in a round of the loop. But one of them may have sent hundreds of
requests at once, or use TLS, whose streams the multiplexer does not read. Each such request takes a turn. Requests
without a turn queue for the next round. A caller that is alone never waits.
"""

from __future__ import annotations

import trio


class FairScheduler:
    """A batch of turns for each round of the loop. :meth:`run` must be running somewhere."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._refill_below = batch // 2
        self._available = batch
        self._queue = trio.lowlevel.ParkingLot()
        self._refill_due = trio.lowlevel.ParkingLot()

    async def acquire(self) -> None:
        """Wait for a turn. Returns at once, without a checkpoint, while turns are left."""
        if self._available > 0:
            self._available -= 1
            if self._available == self._refill_below:
                self._refill_due.unpark()
        else:
            await self._queue.park()

    async def run(self) -> None:
        """Hand out the next batch in the round after half of one was used. Never returns.

        It refills at half, so that callers that use less than half in a round never queue.
        """
        while True:
            if self._available > self._refill_below:
                await self._refill_due.park()
            else:
                await trio.lowlevel.checkpoint()
            waiting = len(self._queue)
            self._queue.unpark(count=self._batch)
            self._available = max(self._batch - waiting, 0)
