"""Gossip comes first: requests are answered in small batches, with the loop given back in between.

Trio runs every task that is ready before it looks at the sockets again. With ten thousand callers ready at once, one
such round would take longer than a heartbeat; so at most a batch of requests is answered in a round, and the others
wait in a queue for the next ones. A caller that is alone never waits.
"""

from __future__ import annotations

import trio


class Turns:
    """A batch of turns for each round of the loop. :meth:`run` must be running somewhere."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._left = batch
        self._queue = trio.lowlevel.ParkingLot()
        self._used_up = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        """Wait for a turn. Returns at once, without a checkpoint, while there are some."""
        if self._left > 0 and not self._queue:
            self._left -= 1
            return
        self._used_up.unpark()
        await self._queue.park()

    async def run(self) -> None:
        """Hand out the next batch, one round after the last one was used up. Never returns."""
        while True:
            if not self._queue:
                await self._used_up.park()
            while self._queue:
                await trio.lowlevel.checkpoint()
                self._queue.unpark(count=self._batch)
            self._left = self._batch
