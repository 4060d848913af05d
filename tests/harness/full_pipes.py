"""Pipes and terminals that take nothing."""

from __future__ import annotations

import fcntl
import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends; nothing goes into it until somebody reads."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b".")
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def stopped_terminal() -> Iterator[tuple[int, int]]:
    """A terminal on which somebody has pressed Ctrl-S."""
    person, program = os.openpty()
    termios.tcflow(program, termios.TCOOFF)
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)
