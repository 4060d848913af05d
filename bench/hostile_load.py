"""The callers of bench/hostile.py, each a process of its own: ``python -m bench.hostile_load KIND PORT SECONDS``.

They do harm until the time is over.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

ADDRESS: Final = "127.0.0.1"
SLOW_CALLERS: Final = 1000
IDLE_CALLERS: Final = 10_000
PIPELINED: Final = 100_000
HUGE_BODY: Final = 1 << 30
HALF_CLOSED: Final = 1000
REQUEST: Final = b"GET /v1/workers?service=embed HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD: Final = b"POST /v3/discovery:endpoints HTTP/1.1\r\nHost: localhost\r\n"
CHUNK: Final = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
QUERY: Final = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06_embed\x04_tcp\x09rumormill\x00\x00\x21\x00\x01"


def connect(port: int) -> socket.socket:
    return socket.create_connection((ADDRESS, port), timeout=10)


def paced(rate: float, until: float) -> Iterator[int]:
    """Counts up, `rate` times a second. Callers that all act in the same moment are another attack: a queue."""
    began, number = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        if now < began + number / rate:
            time.sleep(0.001)
            continue
        yield number
        number += 1


def slow(port: int, until: float) -> None:
    """Each sends one more byte of its head twice a second, and comes again when it is cut off."""
    callers: list[socket.socket | None] = [None] * SLOW_CALLERS
    for number in paced(2 * SLOW_CALLERS, until):
        place = number % SLOW_CALLERS
        caller = callers[place]
        try:
            if caller is None:
                caller = callers[place] = connect(port)
                caller.send(HEAD)
            caller.send(b"x")
        except OSError:
            callers[place] = None


def idle(port: int, until: float) -> None:
    """Ten thousand connect and say nothing; those that are cut off connect again."""
    with select.epoll() as poll:
        callers: dict[int, socket.socket] = {}
        for _ in paced(IDLE_CALLERS / 4, until):
            for number, _ in poll.poll(0):
                callers.pop(number).close()
            if len(callers) < IDLE_CALLERS:
                with contextlib.suppress(OSError):
                    caller = connect(port)
                    callers[caller.fileno()] = caller
                    poll.register(caller, select.EPOLLIN)


def huge_body(port: int, until: float) -> None:
    """A gigabyte in chunks, as one body; begun anew at each refusal."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connect(port) as caller:
            caller.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(HUGE_BODY // 0x10000):
                caller.sendall(CHUNK)


def endless_head(port: int, until: float) -> None:
    """Header lines without end; begun anew at each refusal."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connect(port) as caller:
            caller.sendall(HEAD)
            while True:
                caller.sendall(b"X-Padding: " + b"y" * 4096 + b"\r\n")


def pipelined(port: int, until: float) -> None:
    """A hundred thousand requests on one connection, sent as fast as it takes them and read as slowly."""
    while time.monotonic() < until:
        with connect(port) as caller:
            caller.setblocking(False)
            unsent = memoryview(REQUEST * PIPELINED)
            with contextlib.suppress(OSError), select.epoll() as poll:
                poll.register(caller, select.EPOLLIN | select.EPOLLOUT)
                while time.monotonic() < until:
                    _, flags = poll.poll(1)[0]
                    if flags & select.EPOLLIN and not caller.recv(1 << 20):
                        break
                    if flags & select.EPOLLOUT:
                        unsent = unsent[caller.send(unsent[: 1 << 20]) :]
                        if not unsent:
                            unsent = memoryview(REQUEST * PIPELINED)


def half_closed(port: int, until: float) -> None:
    """A thousand send eight requests, or nothing, and close only their own direction; each then comes again."""
    callers: deque[socket.socket] = deque()
    for number in paced(HALF_CLOSED / 2, until):
        if len(callers) >= HALF_CLOSED:
            callers.popleft().close()
        with contextlib.suppress(OSError):
            callers.append(connect(port))
            callers[-1].send(REQUEST * 8 * (number % 2))
            callers[-1].shutdown(socket.SHUT_WR)


def dns(port: int, until: float) -> None:
    """Queries for always new names, as fast as they can be sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((ADDRESS, port))
        number = 0
        while time.monotonic() < until:
            number += 1
            with contextlib.suppress(OSError):
                sock.send((number % 65536).to_bytes(2, "big") + QUERY[2:12] + b"\x08x%07x" % number + QUERY[12:])


KINDS: Final[dict[str, Callable[[int, float], None]]] = {
    each.__name__: each for each in (slow, idle, huge_body, endless_head, pipelined, half_closed, dns)
}


def kinds() -> Iterator[tuple[str, str]]:
    """The names, and what each does."""
    for name, each in KINDS.items():
        assert each.__doc__ is not None
        yield name, each.__doc__


if __name__ == "__main__":
    kind, port, seconds = sys.argv[1:]
    KINDS[kind](int(port), time.monotonic() + float(seconds))
