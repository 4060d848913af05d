"""Captures what a host sends at the switch, to learn when it last sent its heartbeats."""

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
"""A socket on a bridge port must ask for all protocols; otherwise the bridge consumes the packets first."""
CLONE_NEWNET = 0x40000000
AT_ONCE = 0.005
"""Seconds within which datagrams count as sent together."""


class Sniffer:
    """Captures IPv4 datagrams from one UDP port that arrive at a device of another namespace.

    A context manager. Raises OSError if the kernel does not allow it.
    """

    def __init__(self, namespace: str, device: str, port: int) -> None:
        self._port = port
        with ThreadPoolExecutor(1) as thread:  # sockets belong to the namespace of the thread that opens them
            self._socket = thread.submit(_open_in_namespace, namespace, device).result()

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def heartbeat(self, receivers: int, within: float) -> float | None:
        """When the host next sends to that many receivers at once (CLOCK_MONOTONIC).

        None if it does not do so ``within`` seconds.
        """
        until = time.monotonic() + within
        sent: dict[str, float] = {}
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                packet, (_, protocol, direction, *_) = self._socket.recvfrom(2048)
            except TimeoutError:
                break
            if protocol == ETH_P_IP and direction != socket.PACKET_OUTGOING and self._is_from_port(packet):
                now = time.monotonic()
                sent = {to: at for to, at in sent.items() if now - at < AT_ONCE}
                sent[socket.inet_ntoa(packet[16:20])] = now
                if len(sent) >= receivers:
                    return now
        return None

    def _is_from_port(self, packet: bytes) -> bool:
        header = 4 * (packet[0] & 15)
        return packet[9] == socket.IPPROTO_UDP and struct.unpack_from("!H", packet, header)[0] == self._port


def _open_in_namespace(namespace: str, device: str) -> socket.socket:
    """Move this thread to another network namespace, permanently, and open a packet socket there."""
    with Path(f"/run/netns/{namespace}").open() as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    try:
        sock.bind((device, ETH_P_ALL))
    except OSError:
        sock.close()
        raise
    return sock
