"""A thread with an event loop in it, for callers that block. All pools of a process share one.

The thread belongs to the process that started it. A fork copies no thread, so a child that waited for the loop would
wait forever; all that a child can do is forget it. So nothing here may end the thread when the object is collected.
anyio's own `start_blocking_portal` would, because it is a generator.

Under gevent's monkey patching the thread is a greenlet. All greenlets run in one thread of the operating system, in
which asyncio allows only one loop. That is why pools share it.
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

_shared_lock = threading.Lock()
_shared: LoopThread | None = None


class LoopThread:
    """The thread and its loop."""

    def __init__(self) -> None:
        """Return when the loop runs. Raises OSError if no file descriptor is left for it."""
        self.users = 0
        self._process = os.getpid()
        self._closed = False
        started: Future[tuple[BlockingPortal, asyncio.AbstractEventLoop]] = Future()
        self._thread = threading.Thread(target=_run_loop, args=(started,), daemon=True, name="rumormill pools")
        self._thread.start()
        self._portal, self._loop = started.result()

    @property
    def inherited(self) -> bool:
        """Whether it was started before this process was forked."""
        return self._process != os.getpid()

    @property
    def running(self) -> bool:
        return not self._closed and not self.inherited

    def call(self, step: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run this in the loop and wait for it. If the wait is interrupted, the step is cancelled.

        Raises RuntimeError if the loop is not running.
        """
        if not self.running:
            raise RuntimeError("this belongs to a pool that is closed, or to the process that forked this one")
        call = _CancellableCall(step, args)
        try:
            return self._portal.start_task_soon(call.run).result()
        except BaseException:
            # An interrupt may strike before the future exists, so the call is cancelled and not the future.
            call.cancel(self._portal)
            raise

    def call_soon(self, function: Callable[[], object]) -> None:
        """Run this in the loop, soon. Any thread may call it. Does nothing if the loop has ended."""
        if self.running:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._portal.call(self._portal.stop, True)
        self._thread.join()


def acquire_loop() -> LoopThread:
    """This process's loop, for one more user, who must release it. Raises what :func:`check_threads` raises."""
    global _shared
    check_threads()
    with _shared_lock:
        if _shared is None or not _shared.running:
            _shared = LoopThread()
        _shared.users += 1
        return _shared


def release_loop(loop: LoopThread) -> None:
    """One user is done. The thread ends with the last. A loop inherited through a fork is left alone."""
    if loop.inherited:
        return
    with _shared_lock:
        loop.users -= 1
        if not loop.users:
            loop.close()


def check_threads() -> None:
    """Raises RuntimeError, with a hint, if gevent has patched only some of what a thread and its callers use."""
    if threading.get_ident is not get_ident:
        raise RuntimeError(
            "threads were monkey patched after rumormill.client was imported, so a SyncPool would wait forever; "
            "call gevent.monkey.patch_all() before all other imports"
        )
    if _monkey_patched("socket") and not _monkey_patched("threading"):
        raise RuntimeError(
            "gevent has patched sockets but not threads, so each call of a SyncPool would block every greenlet; "
            "call gevent.monkey.patch_all() without thread=False, or leave sockets unpatched too"
        )


def _monkey_patched(module: str) -> bool:
    """Whether gevent has patched a module of the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched(module)


def _run_loop(started: Future[tuple[BlockingPortal, asyncio.AbstractEventLoop]]) -> None:
    """The thread's main function."""

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result((portal, asyncio.get_running_loop()))
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve, backend_options={"loop_factory": _greenlet_loop} if _monkey_patched("threading") else {})
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


def _greenlet_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_StopAfterFork())


class _StopAfterFork(selectors.DefaultSelector):
    """Stops the loop in a forked child. A fork copies greenlets, and the copy would read data sent to the parent."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout)
        if self._process != os.getpid():
            threading.Event().wait()
        return events


def _after_fork() -> None:
    """Replace the lock in the child, because a thread that was not copied may hold the old one."""
    global _shared_lock
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class _CancellableCall(Generic[T]):
    """One step in the loop, which the waiting thread can cancel at any moment."""

    def __init__(self, step: Callable[..., Coroutine[Any, Any, T]], args: tuple[object, ...]) -> None:
        self._step = step
        self._args = args
        self._cancelled = False
        self._done = False
        self._scope: anyio.CancelScope | None = None

    async def run(self) -> T:
        with anyio.CancelScope() as self._scope:
            if self._cancelled:
                self._scope.cancel()
            try:
                return await self._step(*self._args)
            finally:
                self._done = True
        raise RuntimeError("cancelled by the thread that waited for it")

    def cancel(self, loop: BlockingPortal) -> None:
        """Cancel the step, from the thread that waited. Does nothing if the step or the loop has ended."""
        self._cancelled = True
        if not self._done:
            with suppress(RuntimeError):
                loop.start_task_soon(self._cancel_scope)

    async def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
