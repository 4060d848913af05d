"""A thread with an event loop in it, and a pool open there, for callers that block.

It belongs to the process that started it: a fork copies no thread, so a child that waited for the loop would wait for
ever. What is left of it in a child can only be forgotten. So nothing here ends the thread by itself when it is
forgotten, as anyio's own `start_blocking_portal` would, which is a generator.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from rumormill.client.pool import Pool

T = TypeVar("T")


class LoopThread:
    """The thread, the loop and the open pool."""

    def __init__(self, pool: Pool) -> None:
        """Return when the pool is open. Raises OSError where there is no descriptor left for a loop."""
        self._process = os.getpid()
        self._pool = pool
        self._closed = False
        started: Future[BlockingPortal] = Future()
        name = f"rumormill pool of {pool.service!r}"
        self._thread = threading.Thread(target=_run_loop, args=(started,), daemon=True, name=name)
        self._thread.start()
        self._portal = started.result()
        try:
            self.call(pool.open)
        except BaseException:
            self.close()
            raise

    @property
    def inherited(self) -> bool:
        """Whether it was started before this process was forked."""
        return self._process != os.getpid()

    @property
    def running(self) -> bool:
        return not self._closed and not self.inherited

    def call(self, step: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Do this in the loop and wait for it; whatever ends the waiting ends the step too.

        Raises RuntimeError where it is not running.
        """
        if not self.running:
            raise RuntimeError("this belongs to a pool that is closed, or to the process that forked this one")
        doing = _Doing(step, args)
        try:
            return self._portal.start_task_soon(doing.run).result()
        except BaseException:
            # An interrupt may strike before there is anything to cancel, so what is under way cancels itself.
            doing.give_up(self._portal)
            raise

    def close(self) -> None:
        """Close the pool and end the thread. Raises what crashed in the pool's background."""
        if not self.running:
            return
        try:
            self.call(self._pool.aclose)
        finally:
            self._closed = True
            self._portal.call(self._portal.stop, True)
            self._thread.join()


def _run_loop(started: Future[BlockingPortal]) -> None:
    """What the thread does."""

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


class _Doing(Generic[T]):
    """One step in the pool's loop, which the waiting thread can give up at any moment."""

    def __init__(self, step: Callable[..., Coroutine[Any, Any, T]], args: tuple[object, ...]) -> None:
        self._step = step
        self._args = args
        self._given_up = False
        self._over = False
        self._scope: anyio.CancelScope | None = None

    async def run(self) -> T:
        with anyio.CancelScope() as self._scope:
            if self._given_up:
                self._scope.cancel()
            try:
                return await self._step(*self._args)
            finally:
                self._over = True
        raise RuntimeError("given up by the thread that waited for it")

    def give_up(self, loop: BlockingPortal) -> None:
        """Cancel it, from the thread that waited. Nothing is left to do where it is over, or the loop is."""
        self._given_up = True
        if not self._over:
            with suppress(RuntimeError):
                loop.start_task_soon(self._cancel)

    async def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
