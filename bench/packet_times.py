"""When a member's datagrams arrive at the others on this host, by the kernel's own clock. Needs root."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from itertools import pairwise
from typing import Final

SO_ATTACH_FILTER: Final = 26
SO_TIMESTAMPNS: Final = 35


class PacketTimes:
    """A context manager: records the arrivals of UDP datagrams from one port of the loopback interface, by receiver."""

    def __init__(self, port: int) -> None:
        """Raises PermissionError without root."""
        self._arrivals: dict[int, list[float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        # A raw UDP socket gets a copy of each datagram and none of TCP, however much of that there is.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.settimeout(0.1)
        _attach(self._socket, port)

    def __enter__(self) -> PacketTimes:
        self._began = time.time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = time.time()
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(128, 64)
            except TimeoutError:
                continue
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
            (receiver,) = struct.unpack_from("!H", packet, 4 * (packet[0] & 15) + 2)
            self._arrivals.setdefault(receiver, []).append(seconds + nanoseconds / 1e9)

    def longest_gap(self, receivers: int) -> float:
        """The longest time that any receiver heard nothing, in seconds, both ends included. Receivers that heard
        nothing at all are not known, so say how many there are; infinity if one is missing."""
        if len(self._arrivals) < receivers:
            return float("inf")
        return max(
            after - before
            for arrivals in self._arrivals.values()
            for before, after in pairwise([self._began, *arrivals, self._ended])
        )


def _attach(sock: socket.socket, port: int) -> None:
    """Let the kernel drop what does not come from this UDP port."""
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0xB1, 0, 0, 0),  # x = length of the IP header
            (0x48, 0, 0, 0),  # a = the two bytes there: the source port
            (0x15, 0, 1, port),
            (0x06, 0, 0, 128),  # keep the first 128 bytes
            (0x06, 0, 0, 0),  # drop
        )
    )
    buffer = ctypes.create_string_buffer(program)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(buffer)))
