"""Reserves port numbers while the processes that use them come and go.

A killed sidecar must come back on its old address, and nobody may take that address in between. The numbers are outside
the kernel's ephemeral range, so no socket whose port the kernel chooses (an outgoing connection, a port 0) gets one of
them. Each number is held by a TCP socket that is bound and never listens. It is bound without SO_REUSEADDR, so it
excludes every other holder. Then it gets SO_REUSEADDR and SO_REUSEPORT, so a server with either flag (as any server
that must be restarted has) can bind the same number and listen. While no server does, callers are refused as they
should be. UDP has no such state. There the number is only known to be free at first, and the TCP socket keeps other
pools from choosing it.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
_LOWEST = 15_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 500


class NoPortsLeft(Exception):
    """No free port was found; the text says how many were tried."""


class PortHold:
    """Holds one port number for TCP and UDP on 127.0.0.1 until it is closed."""

    def __init__(self, port: int) -> None:
        """Raises OSError if the number is in use."""
        self.port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.bind((HOST, port))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.bind((HOST, port))
        except OSError:
            self._socket.close()
            raise
        for flag in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._socket.setsockopt(socket.SOL_SOCKET, flag, 1)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> PortHold:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def hold_port(rng: random.Random) -> PortHold:
    """Holds a free port number. Raises :class:`NoPortsLeft`."""
    lowest, highest = _range()
    for _ in range(_TRIES):
        try:
            return PortHold(rng.randint(lowest, highest))
        except OSError:
            continue
    raise NoPortsLeft(f"none of {_TRIES} ports tried between {lowest} and {highest} is free")


def _range() -> tuple[int, int]:
    """The wider range of ports below or above the ephemeral range. If both are too small, all unprivileged ports."""
    try:
        first, last = (int(word) for word in _RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        first, last = 32_768, 60_999
    sides = [(_LOWEST, first - 1), (last + 1, 65_535)]
    lowest, highest = max(sides, key=lambda side: side[1] - side[0])
    return (lowest, highest) if highest - lowest >= 1000 else (_LOWEST, 65_535)
