"""A task of its own for what runs in the background, so that one task may start it and another end it.

Cancel scopes and task groups must be left by the task that entered them, and an app's lifespan or a test's fixture is
often entered in one task and left in another. So they are entered and left by a task that belongs to nobody's task
group, and whoever wants it started or ended says so by an event.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
from contextlib import AbstractAsyncContextManager

import anyio
import trio

log = logging.getLogger("rumormill.client")


class HostTask:
    """Enters a context manager, keeps it until it is told to leave it, and leaves it, all in one task."""

    def __init__(self, hosted: AbstractAsyncContextManager[None]) -> None:
        """Made and ended within one event loop, by any of its tasks."""
        self.failure: BaseException | None = None
        """What crashed in there, if anything did; it is logged at once."""
        self._hosted = hosted
        self._entered = anyio.Event()
        self._leaving = anyio.Event()
        self._over = anyio.Event()
        self._scope = anyio.CancelScope()
        self._loop = _current_loop()
        self._task: object = None
        """Kept here, because asyncio itself keeps no task alive."""

    async def start(self) -> None:
        """Return once it is entered. Raises what entering raises; whatever ends the waiting ends the task too."""
        if trio.lowlevel.in_trio_task():
            self._task = trio.lowlevel.spawn_system_task(self._run_on_trio, context=contextvars.copy_context())
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._entered.wait()
        except BaseException:
            self._scope.cancel()
            await self.stop()
            raise
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Return once it is left. Safe to repeat. Raises RuntimeError in another event loop while its own runs."""
        if self._over.is_set():
            return
        if _current_loop() is not self._loop:
            raise RuntimeError("this pool was opened in another event loop; close it there")
        self._leaving.set()
        with anyio.CancelScope(shield=True):
            await self._over.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with self._hosted:
                    self._entered.set()
                    await self._leaving.wait()
        except Exception as error:
            self.failure = error
            log.error("a pool's background task has crashed, and the pool with it", exc_info=error)
        finally:
            self._entered.set()
            self._over.set()

    async def _run_on_trio(self) -> None:
        """The same as a system task, which must not raise."""
        try:
            await self._run()
        except BaseExceptionGroup as group:
            interrupt, rest = group.split(KeyboardInterrupt)
            if interrupt is None or rest is not None:
                raise
            self.failure = interrupt
            # Ctrl-C struck while a task in here ran, and is the main task's. From a system task, which trio shields
            # from it, the signal goes there.
            signal.raise_signal(signal.SIGINT)


def _current_loop() -> object:
    return trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_task() else asyncio.get_running_loop()
