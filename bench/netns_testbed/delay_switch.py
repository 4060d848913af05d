"""A switch that delays frames: ``python -m bench.netns_testbed.delay_switch --delay 0.05 --jitter 0.01 PORT ...``

For kernels without ``tc netem``. It reads raw frames from each named interface and learns which addresses are behind
it. It forwards each frame after the delay plus a uniform random part of the jitter, so frames can be reordered.
"""

from __future__ import annotations

import argparse
import heapq
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from itertools import count

EVERY_PROTOCOL = 0x0003
SOL_PACKET, PACKET_VNET_HDR = 263, 15
VNET_HEADER = 10
"""Bytes before each frame that describe checksum and segmentation offload. They are forwarded with the frame."""
LONGEST_FRAME = 1 << 17


class Switch:
    """Frames wait in one heap until they are due. Ties leave in order of arrival."""

    def __init__(self, ports: Sequence[str], delay: float, jitter: float) -> None:
        self._delay, self._jitter = delay, jitter
        self._sockets = {sock.fileno(): sock for sock in map(_open, ports)}
        self._behind: dict[bytes, int] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._order = count()
        self._rng = random.Random(1)

    def run(self) -> None:
        poll = select.poll()
        for number in self._sockets:
            poll.register(number, select.POLLIN)
        while True:
            wait = self._waiting[0][0] - time.monotonic() if self._waiting else 1.0
            for number, _ in poll.poll(max(0.0, wait) * 1000):
                self._receive(number)
            self._deliver()

    def _receive(self, number: int) -> None:
        data, (_, _, kind, *_) = self._sockets[number].recvfrom(LONGEST_FRAME)
        if kind == socket.PACKET_OUTGOING:
            return
        target, source = data[VNET_HEADER : VNET_HEADER + 6], data[VNET_HEADER + 6 : VNET_HEADER + 12]
        self._behind[source] = number
        known = self._behind.get(target)
        due = time.monotonic() + self._delay + self._jitter * self._rng.random()
        for out in self._sockets if known is None else [known]:
            if out != number:
                heapq.heappush(self._waiting, (due, next(self._order), out, data))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, out, data = heapq.heappop(self._waiting)
            self._sockets[out].send(data)


def _open(port: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.bind((port, EVERY_PROTOCOL))
    return sock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds")
    parser.add_argument("--jitter", type=float, default=0.0, help="seconds")
    parser.add_argument("ports", nargs="+")
    options = parser.parse_args()
    switch = Switch(options.ports, options.delay, options.jitter)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    switch.run()


if __name__ == "__main__":
    main()
