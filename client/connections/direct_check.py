"""Asks a suspect or evicted worker directly whether it is still there.

Eviction means that no member hears the sidecar. Requests in flight at its worker are aborted only if the worker is gone
too. The question is asked as soon as the member is suspect, and its outcome counts once the member is evicted:

- If the worker refuses a connection, it is gone.
- If it answers anything within 0.5 s, only its sidecar is gone. The same holds if the kernel refuses a datagram to the
  sidecar's UDP port, as a live kernel does for a process that ended: a silent worker is then merely busy.
- If it is silent and nothing shows that it is alive, its process is frozen, and counts as gone.

A suspect that answers is asked again at its eviction. Once it is known that only the sidecar is gone, the worker may
stay silent like any busy one. From then on, only a failed connection counts against it. The check is repeated. A
connection that a busy worker has not answered stays open. The worker then finds it in its queue, and TCP keep-alive
tells if the host goes down meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable

import anyio
import anyio.abc
import httpx2
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from rumormill.client.connections.in_flight import InFlightRegistry, WorkerInFlight
from rumormill.client.runtime.descriptors import descriptor_shortage

ANSWER_TIMEOUT = 0.5
"""Seconds that a worker has for an answer. More makes callers of a frozen worker wait; less gives up slow workers."""
LAST_LOOK = 0.1
"""The last part of that time, in seconds. It begins with another datagram, because the sidecar may have ended since."""
EVICTION_POLL = 0.05
"""Seconds between two looks whether a suspect is evicted by now."""
CHECK_EVERY = 2.0
"""Seconds between two checks of one worker. More notices a dead host later; less asks more often."""
LATE_TOLERANCE = 0.1
"""Seconds that a timeout may fire late. Beyond that, it says more about this process than about the worker."""
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
        if hasattr(socket, option)
    ),
)


async def check_evicted(registry: InFlightRegistry, tls: Callable[[], ssl.SSLContext]) -> None:
    """Forever check suspect and evicted workers that have requests in flight."""
    async with anyio.create_task_group() as tasks:
        while True:
            for at_worker in await registry.wait_for_unchecked():
                tasks.start_soon(_check, at_worker, tls)


async def _check(at_worker: WorkerInFlight, tls: Callable[[], ssl.SSLContext]) -> None:
    with at_worker.check or anyio.CancelScope():
        await DirectCheck(at_worker, tls).run()


class DirectCheck:
    """Checks one suspect or evicted worker repeatedly. `tls` is called only for https."""

    def __init__(self, at_worker: WorkerInFlight, tls: Callable[[], ssl.SSLContext]) -> None:
        self._at_worker = at_worker
        self._url = httpx2.URL(at_worker.worker.url)
        self._tls = tls() if self._url.scheme == "https" else None
        self._worker_alive = False
        """It is known that only the sidecar is gone."""

    async def run(self) -> None:
        """Return once the worker is gone and its requests are aborted. Until then, run until cancelled."""
        while True:
            evicted = self._at_worker.evicted
            if await self._is_gone():
                return
            if evicted:
                await anyio.sleep(CHECK_EVERY)
            else:
                await self._wait_for_eviction()

    async def _wait_for_eviction(self) -> None:
        """A suspect that is alive again cancels the check."""
        while not self._at_worker.evicted:
            await anyio.sleep(EVICTION_POLL)

    async def _is_gone(self) -> bool:
        """Check once. If the worker fails the check, abort its requests, but not before it is evicted."""
        deadline = anyio.current_time() + ANSWER_TIMEOUT
        with _UdpProbe(self._at_worker.worker.address) as probe:
            try:
                tcp = await self._connect(deadline)
            except TimeoutError:
                # A kernel that refuses the sidecar's port is alive, so the worker's accept queue is merely full.
                if probe.refused() or _ran_late(deadline) or not self._at_worker.evicted:
                    return False
                return self._abort_all(f"accepts no connection within {ANSWER_TIMEOUT:g} s")
            except OSError as error:
                if _is_local_error(error) or not self._at_worker.evicted:
                    return False
                return self._abort_all(f"accepts no connection: {_error_text(error)}")
            try:
                await self._await_answer(tcp, deadline, probe)
            except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                pass  # a process was there, at least until now: the next connection tells whether it still is
            finally:
                await anyio.aclose_forcefully(tcp)
        return False

    async def _connect(self, deadline: float) -> anyio.abc.SocketStream:
        with anyio.fail_after(max(deadline - anyio.current_time(), 0)):
            tcp = await anyio.connect_tcp(self._url.host, self._url.port or (443 if self._tls else 80))
        raw = tcp.extra(SocketAttribute.raw_socket)  # noqa: S610 - no database here
        for option in _KEEP_ALIVE:
            with contextlib.suppress(OSError):  # some kernels lack some of these options
                raw.setsockopt(*option)
        return tcp

    async def _await_answer(self, tcp: anyio.abc.SocketStream, deadline: float, probe: _UdpProbe) -> None:
        """Wait for any answer. If the worker is merely busy, wait as long as it takes."""
        stream: anyio.abc.ByteStream | None = None
        deadline -= LAST_LOOK
        with anyio.CancelScope(deadline=deadline) as scope:
            stream = await self._with_tls(tcp)
            await stream.send(_request(self._url))
            await stream.receive()
            self._worker_alive = self._at_worker.evicted
        if not scope.cancelled_caught or _ran_late(deadline):
            return
        self._worker_alive = self._worker_alive or probe.refused()
        while not self._worker_alive:
            evicted, deadline = self._at_worker.evicted, anyio.current_time() + LAST_LOOK
            probe.send()
            with anyio.CancelScope(deadline=deadline):
                await (anyio.sleep_forever() if stream is None else stream.receive())
                self._worker_alive = self._at_worker.evicted
                return
            self._worker_alive = probe.refused()
            if evicted and not self._worker_alive and not _ran_late(deadline):
                self._at_worker.abort_before_eviction(f"does not answer within {ANSWER_TIMEOUT:g} s")
                break
        if stream is not None:
            await stream.receive()
            self._worker_alive = True

    async def _with_tls(self, tcp: anyio.abc.SocketStream) -> anyio.abc.ByteStream:
        if self._tls is None:
            return tcp
        host = self._url.host
        return await TLSStream.wrap(tcp, hostname=host, ssl_context=self._tls, standard_compatible=False)

    def _abort_all(self, reason: str) -> bool:
        self._at_worker.abort_all(reason)
        return True


class _UdpProbe:
    """Sends a datagram to a sidecar's port, and tells whether the kernel there refuses it."""

    def __init__(self, address: str) -> None:
        """`address` is HOST:PORT, or empty if it is unknown."""
        self._socket: socket.socket | None = None
        host, _, port = address.rpartition(":")
        if not host:
            return
        host = host.strip("[]")
        try:
            self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.connect((host, int(port)))
        except (OSError, ValueError, OverflowError):
            self.close()
        self.send()

    def send(self) -> None:
        """Send another datagram. An earlier one that was refused unread makes this one fail, and is forgotten."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(b"\0")

    def refused(self) -> bool:
        """Whether a refusal of the last datagram has arrived by now. Reading the refusal clears it."""
        if self._socket is not None:
            try:
                self._socket.recv(1)
            except ConnectionRefusedError:
                return True
            except OSError:
                pass  # nothing has arrived, or no refusal
        return False

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> _UdpProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ran_late(deadline: float) -> bool:
    """Whether this process was held up. Then an answer may have arrived that nobody has read yet."""
    return anyio.current_time() > deadline + LATE_TOLERANCE


def _request(url: httpx2.URL) -> bytes:
    path = url.raw_path.decode("ascii")
    host = url.netloc.decode("ascii")
    return f"HEAD {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rumormill\r\nConnection: close\r\n\r\n".encode()


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error of a chain of causes and groups."""
    while (cause := error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__) is not None:
        error = cause
    return error


def _is_local_error(error: OSError) -> bool:
    """Whether the error is about this process or its resolver, and not about the worker."""
    return isinstance(_root_cause(error), socket.gaierror) or descriptor_shortage(error) is not None


def _error_text(error: OSError) -> str:
    root = _root_cause(error)
    return os.strerror(root.errno).lower() if isinstance(root, OSError) and root.errno else str(error)
