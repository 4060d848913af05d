"""Accepts TCP connections, so many at one time; further ones wait in the kernel's queue, which is bounded too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from rumormill.discovery.http.fair_scheduler import FairScheduler

PAUSE: Final = 0.05
"""Seconds after a connection that could not be accepted."""
_ENDED: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, trio.TooSlowError)


class BoundedAccept:
    """Gives each connection to `serve`, and closes it however that ends."""

    def __init__(
        self, most: int, scheduler: FairScheduler, serve: Callable[[trio.SocketStream], Awaitable[None]]
    ) -> None:
        self._slots = trio.CapacityLimiter(most)
        self._scheduler = scheduler
        self._serve = serve

    async def run(self, listener: trio.abc.Listener[Any]) -> None:
        """Accept until cancelled. Closes the listener."""
        async with listener, trio.open_nursery() as nursery:
            while True:
                slot = object()
                await self._slots.acquire_on_behalf_of(slot)
                await self._scheduler.acquire()
                try:
                    stream = await listener.accept()
                except OSError:  # the caller has gone already, or there are no descriptors left
                    self._slots.release_on_behalf_of(slot)
                    await trio.sleep(PAUSE)
                    continue
                nursery.start_soon(self._serve_one, stream, slot)

    async def _serve_one(self, stream: trio.SocketStream, slot: object) -> None:
        try:
            await self._serve(stream)
        except _ENDED:
            pass
        finally:
            self._slots.release_on_behalf_of(slot)
            await trio.aclose_forcefully(stream)
