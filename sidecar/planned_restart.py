"""A planned restart of the worker: announced first, it is a drain that ends by itself, and never a flap.

The drain ends once the worker was down and is up again, however long it loads. If it does not go down within ``LIMIT``
seconds, the restart was called off, or was too quick to be seen: then the drain ends too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

LIMIT: Final = 60.0
"""Seconds. Longer: a worker may finish longer requests before it restarts; a restart that was called off costs more."""
LOOK_AGAIN: Final = 0.1
"""Seconds between two looks at the worker's check."""


class PlannedRestart:
    """One at a time. ``up`` says whether the worker's last check passed; ``ended`` is called when it may have work."""

    def __init__(self, up: Callable[[], bool], ended: Callable[[], None]) -> None:
        self._up = up
        self._ended = ended
        self._announced = trio.Event()
        self.pending = False
        """Whether a restart is announced and not over."""

    def announce(self) -> None:
        """The worker is about to be restarted."""
        self.pending = True
        self._announced.set()

    def cancel(self) -> None:
        """The operator has drained or undrained the worker otherwise."""
        self.pending = False

    async def run(self) -> None:
        """Follow each announced restart to its end, forever."""
        while True:
            await self._announced.wait()
            self._announced = trio.Event()
            with trio.move_on_after(LIMIT):
                await self._wait_until(up=False)
            await self._wait_until(up=True)
            if self.pending:
                self.pending = False
                self._ended()

    async def _wait_until(self, *, up: bool) -> None:
        while self.pending and self._up() is not up:
            await trio.sleep(LOOK_AGAIN)
