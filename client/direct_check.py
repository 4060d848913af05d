"""Whether an evicted worker is there all the same: the client asks the worker itself.

Eviction says that nobody hears the sidecar. What is under way at its worker is given up only if the worker is gone:

- It takes no connection: it is gone.
- It answers anything within 1 s: only its sidecar has gone. So it has where the sidecar's own UDP port refuses a
  datagram, as a living kernel does for a process that ended: a worker that is silent then is busy.
- It is silent, and nothing speaks for it: the process is frozen, or as good as gone.

Once it is known that only the sidecar has gone, the worker may be as silent as any busy one; only a connection that
fails speaks against it from then on. The check is repeated. One that a busy worker has not answered stays open, so that
the worker finds one in its queue, and TCP's keep-alive tells if the host behind it goes down meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable

import anyio
import anyio.abc
import httpx
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

from rumormill.client.descriptors import descriptor_shortage
from rumormill.client.in_flight import InFlight, InFlightRegistry

LIMIT = 1.0
"""Seconds a worker has for an answer. More keeps callers of a frozen worker waiting; less gives up slow ones."""
AGAIN = 2.0
"""Seconds between two checks of the same worker. More finds it later that a host went down; less asks more often."""
OWN_PAUSE = 0.1
"""A limit that runs out so much late says more of this process than of the worker."""
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
        if hasattr(socket, option)
    ),
)


async def check_evicted(register: InFlightRegistry, tls: Callable[[], ssl.SSLContext]) -> None:
    """Ask evicted workers at which something is under way, for ever."""
    async with anyio.create_task_group() as tasks:
        while True:
            for here in await register.unchecked():
                here.check = anyio.CancelScope()
                tasks.start_soon(_check, here, here.check, tls)


async def _check(here: InFlight, scope: anyio.CancelScope, tls: Callable[[], ssl.SSLContext]) -> None:
    with scope:
        await DirectCheck(here, tls).run()


class DirectCheck:
    """Asks one evicted worker, again and again. `tls` is asked only for https."""

    def __init__(self, here: InFlight, tls: Callable[[], ssl.SSLContext]) -> None:
        self._here = here
        self._url = httpx.URL(here.worker.url)
        self._tls = tls() if self._url.scheme == "https" else None
        self._sidecar_alone = False
        """Whether it is known that only the sidecar has gone."""

    async def run(self) -> None:
        """Return once the worker is gone, and all its work told so; else go on until cancelled."""
        while not await self._is_gone():
            await anyio.sleep(AGAIN)

    async def _is_gone(self) -> bool:
        """One check; what is under way has been told where it fails."""
        deadline = anyio.current_time() + LIMIT
        with _Knock(self._here.worker.address) as knock:
            try:
                tcp = await self._connect(deadline)
            except TimeoutError:
                # A kernel that refuses the sidecar's port lives, and the worker's queue is full.
                if knock.refused() or _late(deadline):
                    return False
                return self._lose(f"takes no connection within {LIMIT:g} s")
            except OSError as error:
                return not _says_nothing(error) and self._lose(f"takes no connection: {_words(error)}")
            try:
                await self._ask(tcp, deadline, knock)
            except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                pass  # somebody is there, or was until now: the next connection tells
            finally:
                await anyio.aclose_forcefully(tcp)
        return False

    async def _connect(self, deadline: float) -> anyio.abc.SocketStream:
        with anyio.fail_after(max(deadline - anyio.current_time(), 0)):
            tcp = await anyio.connect_tcp(self._url.host, self._url.port or (443 if self._tls else 80))
        raw = tcp.extra(SocketAttribute.raw_socket)  # noqa: S610 - no database here
        for option in _KEEP_ALIVE:
            with contextlib.suppress(OSError):  # not every kernel has them all
                raw.setsockopt(*option)
        return tcp

    async def _ask(self, tcp: anyio.abc.SocketStream, deadline: float, knock: _Knock) -> None:
        """Wait for any answer; a worker that is only busy is waited for as long as it takes."""
        stream: anyio.abc.ByteStream | None = None
        with anyio.CancelScope(deadline=deadline) as scope:
            stream = await self._secured(tcp)
            await stream.send(_request(self._url))
            await stream.receive()
            self._sidecar_alone = True
        if not scope.cancelled_caught or _late(deadline):
            return
        self._sidecar_alone = self._sidecar_alone or knock.refused()
        if not self._sidecar_alone:
            self._here.lose_older(f"does not answer within {LIMIT:g} s")
        if stream is not None:
            await stream.receive()
            self._sidecar_alone = True

    async def _secured(self, tcp: anyio.abc.SocketStream) -> anyio.abc.ByteStream:
        if self._tls is None:
            return tcp
        host = self._url.host
        return await TLSStream.wrap(tcp, hostname=host, ssl_context=self._tls, standard_compatible=False)

    def _lose(self, why: str) -> bool:
        self._here.lose(why)
        return True


class _Knock:
    """A datagram to a sidecar's port, and whether its kernel refuses it."""

    def __init__(self, address: str) -> None:
        """`address` is HOST:PORT, or empty where it is not known."""
        self._socket: socket.socket | None = None
        host, _, port = address.rpartition(":")
        if not host:
            return
        host = host.strip("[]")
        try:
            self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.connect((host, int(port)))
            self._socket.send(b"\0")
        except (OSError, ValueError, OverflowError):
            self.close()

    def refused(self) -> bool:
        """Whether a refusal has come in by now; to be asked once."""
        if self._socket is not None:
            try:
                self._socket.recv(1)
            except ConnectionRefusedError:
                return True
            except OSError:
                pass  # nothing has come in, or nothing that says so
        return False

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> _Knock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _late(deadline: float) -> bool:
    """Whether this process was held up, so that an answer may be there and only wait to be read."""
    return anyio.current_time() > deadline + OWN_PAUSE


def _request(url: httpx.URL) -> bytes:
    path = url.raw_path.decode("ascii")
    host = url.netloc.decode("ascii")
    return f"HEAD {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rumormill\r\nConnection: close\r\n\r\n".encode()


def _bottom(error: BaseException) -> BaseException:
    """The error that the others are about."""
    while (cause := error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__) is not None:
        error = cause
    return error


def _says_nothing(error: OSError) -> bool:
    """Whether it is about this process or its resolver, and not about the worker."""
    return isinstance(_bottom(error), socket.gaierror) or descriptor_shortage(error) is not None


def _words(error: OSError) -> str:
    bottom = _bottom(error)
    return os.strerror(bottom.errno).lower() if isinstance(bottom, OSError) and bottom.errno else str(error)
