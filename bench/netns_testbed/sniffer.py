"""Hears what a host sends, as it passes the switch: so one knows when it last said that it lives."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
"""A bridge takes what comes in before anybody hears it who asks for less than all."""
CLONE_NEWNET = 0x40000000
AT_ONCE = 0.005
"""Seconds within which datagrams are said to leave together."""


class Sniffer:
    """Hears the IPv4 datagrams that arrive at a device of another namespace and come from one UDP port.

    A context manager. Raises OSError where the kernel does not allow it.
    """

    def __init__(self, namespace: str, device: str, port: int) -> None:
        self._port = port
        with ThreadPoolExecutor(1) as thread:  # whatever a thread opens belongs to the namespace that it went to
            self._socket = thread.submit(_go_and_listen, namespace, device).result()

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def heartbeat(self, receivers: int, within: float) -> float | None:
        """When the host has next sent to so many others at once (CLOCK_MONOTONIC); None if it does not in so many
        seconds."""
        until = time.monotonic() + within
        heard: dict[str, float] = {}
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                packet, (_, protocol, direction, *_) = self._socket.recvfrom(2048)
            except TimeoutError:
                break
            if protocol == ETH_P_IP and direction != socket.PACKET_OUTGOING and self._is_from_port(packet):
                now = time.monotonic()
                heard = {to: at for to, at in heard.items() if now - at < AT_ONCE}
                heard[socket.inet_ntoa(packet[16:20])] = now
                if len(heard) >= receivers:
                    return now
        return None

    def _is_from_port(self, packet: bytes) -> bool:
        header = 4 * (packet[0] & 15)
        return packet[9] == socket.IPPROTO_UDP and struct.unpack_from("!H", packet, header)[0] == self._port


def _go_and_listen(namespace: str, device: str) -> socket.socket:
    """Leave for another network namespace, for good, and open a packet socket there."""
    with Path(f"/run/netns/{namespace}").open() as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    try:
        ear.bind((device, ETH_P_ALL))
    except OSError:
        ear.close()
        raise
    return ear
