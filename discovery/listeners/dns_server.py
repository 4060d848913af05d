"""DNS over UDP and TCP. The zone is in formats/dns_zone.py; this file moves bytes, within bounds.

UDP queries are answered in batches. After a batch that emptied no socket the loop belongs to others for as long as it
takes to keep DNS at :data:`SHARE` of the time. Under a flood the kernel's buffer overflows and queries are lost, and
nothing else is delayed.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import trio

from rumormill.discovery.formats.dns_zone import MAX_LOCAL_UDP, MAX_TCP, MAX_UDP, DnsZone
from rumormill.discovery.http.fair_scheduler import FairScheduler
from rumormill.discovery.listeners.bounded_accept import BoundedAccept

SHARE: Final = 0.2
"""The largest part of the loop's time for DNS over UDP."""
BATCH: Final = 16
MAX_QUERY: Final = 4096
MAX_CONNECTIONS: Final = 64
"""TCP connections at one time."""
IDLE: Final = 10.0
"""Seconds for the next query on a TCP connection, and for an answer to be taken."""


class DnsServer:
    """Answers queries about one zone."""

    def __init__(self, zone: DnsZone, counters: Counter[str], batch: int) -> None:
        self._zone = zone
        self._counters = counters
        self._scheduler = FairScheduler(batch)
        self._connections = BoundedAccept(MAX_CONNECTIONS, self._scheduler, self._serve_connection)

    async def serve(self, sock: socket.socket, listeners: Sequence[trio.abc.Listener[Any]]) -> None:
        """Answer until cancelled. Closes the listeners, and not the (non-blocking) UDP socket."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._scheduler.run)
            nursery.start_soon(self._serve_udp, sock)
            for listener in listeners:
                nursery.start_soon(self._connections.run, listener)

    async def _serve_udp(self, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            begin = time.perf_counter()
            emptied = self._answer_batch(sock)
            if not emptied:
                took = time.perf_counter() - begin
                await trio.sleep(took * (1 / SHARE - 1))

    def _answer_batch(self, sock: socket.socket) -> bool:
        """Answer what is there, up to a batch; True if nothing is left."""
        for _ in range(BATCH):
            try:
                query, sender = sock.recvfrom(MAX_QUERY)
            except BlockingIOError:
                return True
            except OSError:  # an earlier answer's ICMP error
                continue
            limit = MAX_LOCAL_UDP if ipaddress.ip_address(sender[0].partition("%")[0]).is_loopback else MAX_UDP
            answer = self._answer_untrusted(query, limit)
            if answer is not None:
                self._send(sock, answer, sender)
        return False

    def _answer_untrusted(self, query: bytes, limit: int) -> bytes | None:
        answer = self._zone.answer_untrusted(query, limit=limit)
        if answer is None:
            self._counters["dns_queries_ignored"] += 1
        else:
            self._counters["dns_queries_answered"] += 1
        return answer

    def _send(self, sock: socket.socket, answer: bytes, receiver: Any) -> None:
        try:
            sock.sendto(answer, receiver)
        except OSError:  # the socket is full, or there is no way to the caller: it asks again
            self._counters["dns_answers_lost"] += 1

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        while True:
            with trio.fail_after(IDLE):
                query = await _next_query_untrusted(stream, received)
                await self._scheduler.acquire()
                answer = None if query is None else self._answer_untrusted(query, MAX_TCP)
                if answer is None:
                    return
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)


async def _next_query_untrusted(stream: trio.SocketStream, received: bytearray) -> bytes | None:
    """The next query of a connection; None at its end, or if the query is too long."""
    while True:
        size = int.from_bytes(received[:2], "big") if len(received) >= 2 else MAX_QUERY
        if size > MAX_QUERY:
            return None
        if len(received) >= 2 + size:
            query = bytes(received[2 : 2 + size])
            del received[: 2 + size]
            return query
        data = await stream.receive_some(MAX_QUERY)
        if not data:
            return None
        received += data
