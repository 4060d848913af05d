"""Runs a context manager in a background task, so that one task may enter it and another may leave it.

Cancel scopes and task groups must be left by the task that entered them. But an app's lifespan or a test's fixture is
often entered in one task and left in another. So a task of its own, in no other task group, enters and leaves them, and
events tell it when.
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


class BackgroundContext:
    """Enters a context manager, holds it until told to leave, and leaves it, all in one task."""

    def __init__(self, context: AbstractAsyncContextManager[None]) -> None:
        """Create and stop it within one event loop, from any of its tasks."""
        self.failure: BaseException | None = None
        """The error that crashed the context, if any. It is logged at once."""
        self._context = context
        self._entered = anyio.Event()
        self._exit_requested = anyio.Event()
        self._done = anyio.Event()
        self._scope = anyio.CancelScope()
        self._loop = _current_loop()
        self._task: object = None
        """A reference, because asyncio itself keeps no task alive."""

    async def start(self) -> None:
        """Return once the context is entered. Raises what entering raises. If the wait is cancelled, so is the task."""
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
        """Return once the context is left. Safe to repeat. Raises RuntimeError in another event loop."""
        if self._done.is_set():
            return
        if _current_loop() is not self._loop:
            raise RuntimeError("this pool was opened in another event loop; close it there")
        self._exit_requested.set()
        with anyio.CancelScope(shield=True):
            await self._done.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with self._context:
                    self._entered.set()
                    await self._exit_requested.wait()
        except Exception as error:
            self.failure = error
            log.error("a pool's background task has crashed, and the pool with it", exc_info=error)
        finally:
            self._entered.set()
            self._done.set()

    async def _run_on_trio(self) -> None:
        """The same as a trio system task, which must not raise."""
        try:
            await self._run()
        except BaseExceptionGroup as group:
            interrupt, rest = group.split(KeyboardInterrupt)
            if interrupt is None or rest is not None:
                raise
            self.failure = interrupt
            # Ctrl-C struck while a task in here ran, but the main task must handle it. trio shields system tasks from
            # the signal, so raising it again here delivers it to the main task.
            signal.raise_signal(signal.SIGINT)


def _current_loop() -> object:
    return trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_task() else asyncio.get_running_loop()
