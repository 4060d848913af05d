"""Whether the worker can serve: one HTTP GET each period, and the death of its process.

    starting --pass--> passing --three misses in a row--> critical --pass--> passing
    any      --its process ends--> critical

A miss is anything but an answer of 200..299 within the time-out. Each check opens a connection of its own: a worker
that takes no more connections cannot serve, whatever an old connection says.

A check that is not answered in time stays open, and each further period without its answer is another miss. A worker
that does one thing at a time answers it as soon as it gets to it, and its queue holds one check instead of one for each
period that it was busy. Such silence is no failure: the worker may only be busy, and nobody is put on probation for it.

The request is written and read here, with httptools, because that costs .2 MB of memory where httpx
costs 7.7 (docs/run/agent.md), and nothing but the status is wanted.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import httptools
import trio

from rumormill.membership.record import Readiness
from rumormill.sidecar.settings_values import HostPort, WorkerUrl

MISSES = 3
MAX_ANSWER_BYTES = 1 << 16
"""Read of an answer at most; a longer one is cut off, and its status stands."""
LONGEST_OPEN = 30.0
"""Seconds after which an unanswered check is asked again on a new connection. A larger value finds a worker well again
that much later where its connection was lost without a word (another host's restart); a smaller one leaves more
connections in the queue of a busy worker."""


@dataclass(frozen=True, slots=True)
class CheckState:
    """What the checks so far amount to. ``after_pass`` and ``after_miss`` are the whole rule."""

    readiness: Readiness = Readiness.STARTING
    misses: int = 0
    failed: bool = False
    """Whether, when critical, it has shown more than silence: it ended, refused, or answered wrongly."""

    def after_pass(self) -> CheckState:
        return CheckState(Readiness.PASSING)

    def after_miss(self, *, silent: bool = False) -> CheckState:
        misses = self.misses + 1
        gone = self.readiness is Readiness.PASSING and misses >= MISSES
        readiness = Readiness.CRITICAL if gone else self.readiness
        return CheckState(readiness, misses, self.failed or (readiness is Readiness.CRITICAL and not silent))

    def after_exit(self) -> CheckState:
        return CheckState(Readiness.CRITICAL, MISSES, failed=True)


class CheckFailed(Exception):
    """A miss; the text says why, in words for a log line."""

    def __init__(self, text: str, *, silent: bool = False) -> None:
        super().__init__(text)
        self.silent = silent
        """Nothing came from the worker: it may be busy, or could not be asked (no descriptor, no name, no route)."""


class WorkerCheck:
    """Checks one worker for ever. ``on_change`` gets the readiness and the reason at every change, at once;
    ``on_failure`` is called first where a worker that was ready has failed, and not for mere silence; ``on_miss`` gets
    the reason of a miss, where it is another than that of the miss before."""

    def __init__(
        self,
        url: WorkerUrl,
        path: str,
        *,
        period: float,
        timeout: float,
        on_change: Callable[[Readiness, str], None],
        on_failure: Callable[[], None],
        on_miss: Callable[[str], None],
    ) -> None:
        """``period`` and ``timeout`` in seconds."""
        self._on_change = on_change
        self._on_failure = on_failure
        self._on_miss = on_miss
        self._open: _Question | None = None
        """The check that has not been answered in time."""
        self._tls: ssl.SSLContext | None = None
        self._round = trio.CancelScope()
        self._asked: object = None
        """What is checked, and how often."""
        self.configure(url, path, period=period, timeout=timeout)
        self.ended = trio.Event()
        """The worker's process has ended (known only where its process was given)."""
        self.state = CheckState()
        self.last_miss = ""
        """Why the latest check was missed; empty when it passed."""

    async def run(self) -> None:
        """Check for ever. A worker not yet ready is asked more often at first, so that a start is seen at once."""
        begun = trio.current_time()
        try:
            while True:
                with trio.CancelScope() as self._round:
                    await self._check_and_wait(begun)
                if self._round.cancelled_caught:  # something else is to be asked
                    self._close()
        finally:
            self._close()

    async def _check_and_wait(self, begun: float) -> None:
        started = trio.current_time()
        await self._check_once()
        if self._open is None:
            waiting = self.state.readiness is not Readiness.PASSING
            soon = max(0.05, (started - begun) / 5)
            await trio.sleep_until(started + (min(self._period, soon) if waiting else self._period))

    def configure(self, url: WorkerUrl, path: str, *, period: float, timeout: float) -> None:
        """Check this from now on; what was found so far stands until the next check."""
        if self._asked == (url, path, period, timeout):
            return
        self._asked = (url, path, period, timeout)
        self._period = period
        self._timeout = timeout
        self._path = f"{url.path}{path}"
        self._endpoint = url.endpoint
        self._tls = (self._tls or ssl.create_default_context()) if url.secure else None
        self._request = _request(url, path)
        self._round.cancel()

    def process_started(self) -> None:
        """The worker has a process whose end will be told."""
        self.ended = trio.Event()

    def process_ended(self) -> None:
        """It has ended: said at once, before any check is missed."""
        self.ended.set()
        self._move(self.state.after_exit(), "its process has ended")

    async def wait_gone(self) -> None:
        """Until the process has ended, and nothing has answered in its place since."""
        await self.ended.wait()
        if self.state.readiness is Readiness.PASSING:
            await trio.sleep_forever()

    async def _check_once(self) -> None:
        ended = self.ended.is_set() if self._open is None else self._open.ended
        try:
            await self._get()
        except CheckFailed as error:
            self._note_miss(str(error))
            self._move(self.state.after_miss(silent=error.silent), f"{MISSES} checks missed, the last: {error}")
        else:
            self.last_miss = ""
            if ended == self.ended.is_set():  # an answer begun by a process that has ended since says nothing
                self._move(self.state.after_pass(), "it answers")

    def _note_miss(self, why: str) -> None:
        changed, self.last_miss = why != self.last_miss, why
        if changed:
            self._on_miss(why)

    def _move(self, state: CheckState, reason: str) -> None:
        before, self.state = self.state, state
        if state.failed and not before.failed and before.readiness is not Readiness.STARTING:
            self._on_failure()
        if state.readiness is not before.readiness:
            self._on_change(state.readiness, reason)

    async def _get(self) -> None:
        """One GET, or one more period for the one that is open; returns where it was answered with 200..299, else
        raises :class:`CheckFailed`."""
        patience = self._timeout if self._open is None else self._period
        try:
            with trio.fail_after(patience):
                status = await self._ask()
        except trio.TooSlowError:
            raise self._unanswered() from None
        except trio.BrokenResourceError as error:
            self._close()
            raise CheckFailed(_words(error.__cause__, self._endpoint)) from None
        except OSError as error:
            self._close()
            raise CheckFailed(_words(error, self._endpoint), silent=not _from_worker(error)) from None
        except CheckFailed:
            self._close()
            raise
        self._close()
        if not 200 <= status <= 299:
            hint = "; set --worker-check to a path that answers 2xx" if status < 500 else ""
            raise CheckFailed(f"GET {self._path} answered {status}{hint}")

    async def _ask(self) -> int:
        if self._open is None:
            stream = await _connect(self._endpoint, self._tls)
            self._open = _Question(stream, trio.current_time(), ended=self.ended.is_set())
            await stream.send_all(self._request)
            self._open.sent = True
        return await self._open.status()

    def _unanswered(self) -> CheckFailed:
        """What a time-out amounts to. A question that is not out, or has been out for too long, is given up."""
        waited = self._timeout if self._open is None else trio.current_time() - self._open.asked
        if self._open is not None and (not self._open.sent or waited >= max(LONGEST_OPEN, self._timeout)):
            self._close()
        return CheckFailed(f"no answer within {self._timeout:g} s", silent=True)

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class _PlainStream:
    """One connection to a literal address. It waits only where it must, and for a worker on this machine that is once:
    connected at once, it takes the request at once. A check each second is a good part of what an idle sidecar costs.
    """

    def __init__(self, endpoint: HostPort) -> None:
        """Begins to connect; whether that fails, :meth:`send_all` tells."""
        self._socket = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            error = self._socket.connect_ex((endpoint.host, endpoint.port))
        except BaseException:
            self._socket.close()
            raise
        if error not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(error, os.strerror(error))

    async def send_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.wait_readable(self._socket)
        return self._socket.recv(max_bytes)

    def close(self) -> None:
        self._socket.close()


_Stream = _PlainStream | trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def _connect(endpoint: HostPort, tls: ssl.SSLContext | None) -> _Stream:
    if endpoint.ip is not None and tls is None:
        return _PlainStream(endpoint)
    if tls is None:
        return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    return await trio.open_ssl_over_tcp_stream(endpoint.host, endpoint.port, ssl_context=tls, https_compatible=True)


def _request(url: WorkerUrl, path: str) -> bytes:
    return (
        f"GET {url.path}{path} HTTP/1.1\r\nHost: {url.endpoint}\r\nUser-Agent: rumormill\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


class _Answer:
    """Collects the status of the first answer that is not a mere announcement (1xx)."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status: int | None = None
        self.complete = False

    def on_headers_complete(self) -> None:
        if self.status is None and (status := self.parser.get_status_code()) >= 200:
            self.status = status

    def on_message_complete(self) -> None:
        self.complete = self.status is not None


class _Question:
    """One check on its connection. Waiting for its status may be cut short, and taken up again."""

    def __init__(self, stream: _Stream, asked: float, *, ended: bool) -> None:
        self._stream = stream
        self._answer = _Answer()
        self._read = 0
        self.asked = asked
        self.ended = ended
        """Whether the worker's process was known to have ended when it was asked."""
        self.sent = False

    async def status(self) -> int:
        """Reads the whole answer if it is short: cutting a worker off in the middle fills its log with complaints."""
        answer = self._answer
        while not answer.complete and self._read < MAX_ANSWER_BYTES:
            data = await self._stream.receive_some(4096)
            if not data:
                break
            self._read += len(data)
            try:
                answer.parser.feed_data(data)
            except httptools.HttpParserError:
                if answer.status is None:
                    raise CheckFailed("the answer is not HTTP") from None
                break  # the status is clear, whatever stands behind it
        if answer.status is None:
            raise CheckFailed(
                "the connection was closed without an answer" if self._read < MAX_ANSWER_BYTES else "no end of headers"
            )
        return answer.status

    def close(self) -> None:
        match self._stream:
            case trio.SSLStream():
                self._stream.transport_stream.socket.close()
            case trio.SocketStream():
                self._stream.socket.close()
            case _PlainStream():
                self._stream.close()


def _words(error: BaseException | None, endpoint: HostPort) -> str:
    if _refused(error):
        return f"nothing listens on {endpoint}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message} (SSL_CERT_FILE names further authorities)"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower()
    return str(error or "the connection broke")


def _from_worker(error: OSError) -> bool:
    """Whether the worker's side caused it, and not our own or what lies between."""
    return isinstance(error, (ConnectionError, ssl.SSLError)) or _refused(error)


def _refused(error: BaseException | None) -> bool:
    """Whether a kernel has refused the connection, at every address of the name if it is one."""
    match error:
        case ConnectionRefusedError():
            return True
        case BaseExceptionGroup():
            return all(map(_refused, error.exceptions))
        case OSError():
            return _refused(error.__cause__)
    return False
