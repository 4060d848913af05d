"""The shell around a Node: one task that moves bytes and re-arms one timer.

It sleeps until the socket is readable or ``max(node.deadline, now + 1 ms)``. Without that floor, an overdue deadline
would cancel every read, and nothing would ever be received. Then it drains the socket up to a cap, lets the Node handle
its timer, and sends what the Node wants sent. It reports changes and counts send errors. It decides nothing about the
protocol.

The socket is a plain non-blocking one, and trio only says when it is readable. That costs a fifth of awaiting each
datagram. On a socket that reports ICMP errors, one refused datagram makes the *next* read or send raise, whatever its
destination. Then the error queue is drained before the datagrams, and a send that raised is tried once more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from rumormill.gossip.udp.icmp_errors import (
    CONTROL_BYTES,
    IP_RECVERR,
    IPV6_RECVERR,
    LONGEST_QUOTE,
    MSG_ERRQUEUE,
    refused_by_its_host,
)
from rumormill.membership.measurements import NETWORK_SECONDS, Histogram
from rumormill.membership.record import Address
from rumormill.membership.view import Event

RECEIVE_BUFFER = 1 << 20
"""Bytes. A queue of 256 datagrams lost a thousand at the seed of a pool that started all at once."""
DRAIN_CAP = 256
"""Datagrams read before the timer and other tasks run."""
LONGEST_DATAGRAM = 2048
"""Bytes, more than any member sends. A longer datagram is cut off here, and fails to open."""
WAKE_FLOOR = 0.001

_SO_TIMESTAMPNS = 35
"""Linux: the kernel adds to each datagram when it arrived, on the wall clock. Python 3.11 has no name for it."""
_TIMESPEC = struct.Struct("@ll")

_RECVERR = {
    socket.AF_INET: (socket.IPPROTO_IP, IP_RECVERR),
    socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_RECVERR),
}


class ProtocolCore(Protocol):
    """What the transport uses of a Node. Every ``now`` is in seconds on :func:`boot_clock`."""

    @property
    def deadline(self) -> float: ...
    @property
    def view_version(self) -> object: ...
    @property
    def doubts(self) -> int: ...
    @property
    def stopped(self) -> str | None: ...
    @property
    def has_left(self) -> bool: ...
    def receive_datagram(self, data: bytes, source: Address, now: float, arrived: float) -> None: ...
    def receive_refusal(self, datagram: bytes, address: Address, now: float) -> None: ...
    def handle_timer(self, now: float) -> None: ...
    def datagrams_to_send(self) -> list[tuple[Address, bytes]]: ...
    def take_events(self) -> list[Event]: ...


def boot_clock() -> float:
    """Seconds since boot, including time asleep: a member that was suspended must notice."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def bind_udp(address: Address, *, refusals: bool = True) -> socket.socket:
    """A non-blocking UDP socket bound to the address, with room for a burst. Raises OSError.

    ``refusals`` asks the kernel to report ICMP errors about our datagrams (IP_RECVERR). :func:`missing_options` tells
    whether the kernel supports that, and timestamps.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _try_option(sock, (socket.SOL_SOCKET, _SO_TIMESTAMPNS))
        if refusals:
            _try_option(sock, _RECVERR[family])
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _try_option(sock: socket.socket, option: tuple[int, int]) -> None:
    """Set an option that not every kernel supports (gVisor, older emulations). Gossip works without it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(*option, 1)


def missing_options(sock: socket.socket, *, refusals: bool = True) -> list[str]:
    """The options that the kernel does not support for a socket of :func:`bind_udp`, and what is lost without them."""
    missing = []
    if not _has_option(sock, (socket.SOL_SOCKET, _SO_TIMESTAMPNS)):
        missing.append(
            "the kernel does not timestamp datagrams: after a pause of this process, they seem to have arrived late"
        )
    if refusals and not _has_option(sock, _RECVERR[sock.family]):
        missing.append("the kernel does not report ICMP refusals: every death takes three missed heartbeats to detect")
    return missing


def _has_option(sock: socket.socket, option: tuple[int, int]) -> bool:
    try:
        return sock.getsockopt(*option) != 0
    except OSError:
        return False


class ForkedProcess(RuntimeError):
    """The process that drives this transport is not the one that made it."""


class GossipTransport:
    """Drives one Node over one socket.

    ``on_change`` is called as soon as the Node's view has changed, ``on_events`` with its events as they happen.
    """

    def __init__(
        self,
        node: ProtocolCore,
        sock: socket.socket,
        *,
        on_change: Callable[[], None],
        on_events: Callable[[Sequence[Event]], None],
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._node = node
        self._sock = sock
        self._on_change = on_change
        self._on_events = on_events
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when another member's caller doubts our worker."""
        self._clock = clock
        self._drained_at = clock()
        """When we last found the socket empty."""
        self._errors_pending = False
        """Whether the error queue may hold entries: the kernel then makes the next read or send raise."""
        self._sleep: trio.CancelScope | None = None
        self._seen_version: object = None
        self._seen_doubts = node.doubts
        self.counters: Counter[str] = Counter()
        """Socket errors by name (``send_ENETUNREACH``): a datagram that could not be sent is lost like any other."""
        self._process = os.getpid()
        self.turns = 0
        """Turns since the start. A loop whose turns do not grow for several periods hangs."""
        self.lag = 0.0
        """The greatest recent delay of a wake-up in seconds. Old delays fade."""
        self.lag_histogram = Histogram(NETWORK_SECONDS)
        """By how many seconds each timed wake-up was late."""

    def wake(self) -> None:
        """The Node was called from outside: send what it wants sent now, not at the next deadline."""
        if self._sleep is not None:
            self._sleep.cancel()

    async def run(self) -> None:
        """Drive the Node; returns when it has left or stopped."""
        while not self._ended:
            # One scope serves until its deadline fires. A new scope for each sleep would cost a third of each wakeup.
            with trio.CancelScope() as self._sleep:
                await self._run_turns(self._sleep)
            self._note_lag(self._sleep)
        self._sleep = None

    @property
    def _ended(self) -> bool:
        return self._node.has_left or self._node.stopped is not None

    async def _run_turns(self, sleep: trio.CancelScope) -> None:
        """Run a turn for each datagram, until :meth:`wake` or the deadline. Always lets other tasks run."""
        self._run_turn()
        while not self._ended:
            sleep.deadline = trio.current_time() + max(self._node.deadline - self._clock(), WAKE_FLOOR)
            await trio.lowlevel.wait_readable(self._sock)
            self._run_turn()

    def _note_lag(self, sleep: trio.CancelScope) -> None:
        late = trio.current_time() - sleep.deadline
        if sleep.cancelled_caught and late >= 0:  # otherwise it was wake()
            self.lag = max(late, self.lag * 0.99)
            self.lag_histogram.observe(late)

    def _run_turn(self) -> None:
        self.turns += 1
        if self._errors_pending:
            self._drain_errors()
        self._node.handle_timer(self._drain())
        self._send()
        self._report()

    def _drain(self) -> float:
        """Give the Node the datagrams that are there.

        Returns a time before which all datagrams that arrived have been read, except beyond the cap. The timer must use
        it: if we have not run since then, heartbeats may lie unread.
        """
        receive, clock, node = self._sock.recvmsg, self._clock, self._node
        since_epoch = time.clock_gettime(time.CLOCK_REALTIME) - clock()
        for _ in range(DRAIN_CAP):
            now = clock()
            try:
                data, ancillary, _, source = receive(LONGEST_DATAGRAM, CONTROL_BYTES)
            except BlockingIOError:
                self._drained_at = now
                return now
            except OSError as error:
                if self._drain_errors():
                    continue
                self.counters[f"receive_{_name_of(error)}"] += 1
                return now
            stamp = _timestamp_of(ancillary)
            arrived = now if stamp is None else min(max(stamp - since_epoch, self._drained_at), now)
            node.receive_datagram(data, source[:2], now, arrived)
        return clock()

    def _drain_errors(self) -> bool:
        """Empty the error queue; False if it was empty."""
        self._errors_pending = found = False
        for _ in range(DRAIN_CAP):
            try:
                datagram, ancillary, _, address = self._sock.recvmsg(LONGEST_QUOTE, CONTROL_BYTES, MSG_ERRQUEUE)
            except OSError:  # empty; any other error will show when we read datagrams
                return found
            found = True
            if address and refused_by_its_host(ancillary, address[:2]):
                self._node.receive_refusal(datagram, address[:2], self._clock())
            else:
                self.counters["network_errors"] += 1
        return found

    def _send(self) -> None:
        if os.getpid() != self._process:  # a fork has our keys and our counter, and would repeat nonces
            raise ForkedProcess("a forked process must not continue to gossip; start an agent of its own")
        sendto = self._sock.sendto
        for address, data in self._node.datagrams_to_send():
            try:
                sendto(data, address)
            except (OSError, OverflowError, UnicodeError):
                self._send_again(data, address)

    def _send_again(self, data: bytes, address: Address) -> None:
        """Send once more: the error may have been about an earlier datagram."""
        self._errors_pending = True
        try:
            self._sock.sendto(data, address)
        except (OSError, OverflowError, UnicodeError) as error:
            self.counters[f"send_{_name_of(error)}"] += 1

    def _report(self) -> None:
        if (version := self._node.view_version) != self._seen_version:
            self._seen_version = version
            self._on_change()
        if events := self._node.take_events():
            self._on_events(events)
        if (doubts := self._node.doubts) != self._seen_doubts:
            self._seen_doubts = doubts
            self.on_doubt()


def _timestamp_of(ancillary: Iterable[tuple[int, int, bytes]]) -> float | None:
    """When the kernel received a datagram, in seconds since the epoch; None if it does not say."""
    for level, kind, data in ancillary:
        if kind == _SO_TIMESTAMPNS and level == socket.SOL_SOCKET and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(seconds + nanoseconds * 1e-9)
    return None


def _name_of(error: Exception) -> str:
    return errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
