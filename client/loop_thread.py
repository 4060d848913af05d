"""A thread with an event loop in it, for callers that block. All pools of a process share one.

It belongs to the process that started it: a fork copies no thread, so a child that waited for the loop would wait for
ever. What is left of it in a child can only be forgotten. So nothing here ends the thread by itself when it is
forgotten, as anyio's own `start_blocking_portal` would, which is a generator.

Under gevent's monkey patching the thread is a greenlet, and all greenlets run in one thread of the system, where
asyncio allows one loop only; that is why it is shared.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import get_ident
from typing import Any, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

T = TypeVar("T")

_lending = threading.Lock()
_shared: LoopThread | None = None


class LoopThread:
    """The thread and the loop."""

    def __init__(self) -> None:
        """Return when the loop runs. Raises OSError where there is no descriptor left for one."""
        self.users = 0
        self._process = os.getpid()
        self._closed = False
        started: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=_run_loop, args=(started,), daemon=True, name="rumormill pools")
        self._thread.start()
        self._portal = started.result()

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
        """End the thread."""
        self._closed = True
        self._portal.call(self._portal.stop, True)
        self._thread.join()


def borrow_loop() -> LoopThread:
    """The loop of this process, for one more user, who gives it back. Raises what :func:`check_threads` raises."""
    global _shared
    check_threads()
    with _lending:
        if _shared is None or not _shared.running:
            _shared = LoopThread()
        _shared.users += 1
        return _shared


def give_back(loop: LoopThread) -> None:
    """One user is done; with the last, the thread ends. A loop that another process started is that one's to end."""
    if loop.inherited:
        return
    with _lending:
        loop.users -= 1
        if not loop.users:
            loop.close()


def check_threads() -> None:
    """Raises RuntimeError, with a way out, where threads and what waits for them are not of one kind."""
    if threading.get_ident is not get_ident:
        raise RuntimeError(
            "threads were monkey patched after rumormill.client was imported, and a SyncPool would wait for ever; "
            "call gevent.monkey.patch_all() before all other imports"
        )
    if _monkey_patched("socket") and not _monkey_patched("threading"):
        raise RuntimeError(
            "gevent has patched sockets but not threads, so each call of a SyncPool would hold up every greenlet; "
            "call gevent.monkey.patch_all() without thread=False, or leave sockets unpatched too"
        )


def _monkey_patched(module: str) -> bool:
    """Whether gevent has replaced what is in a module of the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched(module)


def _run_loop(started: Future[BlockingPortal]) -> None:
    """What the thread does."""

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve, backend_options={"loop_factory": _greenlet_loop} if _monkey_patched("threading") else {})
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


def _greenlet_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_StoppedByFork())


class _StoppedByFork(selectors.DefaultSelector):
    """A fork copies greenlets, and a loop that went on in the child would read what its parent is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout)
        if self._process != os.getpid():
            threading.Event().wait()
        return events


def _after_fork() -> None:
    """In the child: the lock may be held by a thread that was not copied."""
    global _lending
    _lending = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class _Doing(Generic[T]):
    """One step in the loop, which the waiting thread can give up at any moment."""

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
