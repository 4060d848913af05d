"""Locks around what the threads of a pool share. They are held for microseconds, and never while anything waits.

A fork takes all of them first. So it never copies a lock that is held by a thread that does not exist in the child, and
never a pool in the middle of a change.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager

SharedLock = AbstractContextManager[bool]

_locks: weakref.WeakSet[threading.RLock] = weakref.WeakSet()
_taken: list[threading.RLock] = []


def shared_lock() -> SharedLock:
    """A lock that its thread may take again."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _before_fork() -> None:
    for lock in list(_locks):
        lock.acquire()
        _taken.append(lock)


def _after_fork() -> None:
    while _taken:
        _taken.pop().release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
