"""Whether the worker can serve: one HTTP GET each period, and the exit of its process.

    starting --pass--> passing --three misses in a row--> critical --pass--> passing
    any      --its process exits--> critical

A miss is anything but a 2xx response within the timeout. Each check opens a new connection: a worker that accepts no
more connections cannot serve, even if an old connection still works.

A check that times out stays open, and each further period without its response is another miss. A worker that serves
one request at a time then answers it as soon as it gets to it, and its queue holds one check instead of one for each
period that it was busy. A timeout is not a failure: the worker may only be busy. It never leads to probation.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

import trio

from rumormill.membership.record import Readiness
from rumormill.sidecar.http_exchange import (
    NotHttp,
    ResponseReader,
    Stream,
    caused_by_worker,
    close,
    connect,
    describe_error,
    encode_request,
)
from rumormill.sidecar.settings_values import WorkerUrl

MISSES_UNTIL_CRITICAL = 3
MAX_RESPONSE_BYTES = 1 << 16
"""Reading stops here; the status of a longer response still counts."""
MAX_PENDING_SECONDS = 30.0
"""Seconds after which an unanswered check is sent again on a new connection. With a larger value, a worker whose
connection was lost silently (its host restarted) is found healthy that much later. With a smaller one, more connections
wait in the queue of a busy worker."""


@dataclass(frozen=True, slots=True)
class CheckState:
    """The result of the checks so far. ``passed``, ``missed`` and ``exited`` return the next state."""

    readiness: Readiness = Readiness.STARTING
    misses: int = 0
    failed: bool = False
    """Whether the worker is critical for more than timeouts: it exited, refused a connection, or answered wrongly."""

    def passed(self) -> CheckState:
        return CheckState(Readiness.PASSING)

    def missed(self, *, inconclusive: bool = False) -> CheckState:
        misses = self.misses + 1
        gone = self.readiness is Readiness.PASSING and misses >= MISSES_UNTIL_CRITICAL
        readiness = Readiness.CRITICAL if gone else self.readiness
        return CheckState(readiness, misses, self.failed or (readiness is Readiness.CRITICAL and not inconclusive))

    def exited(self) -> CheckState:
        return CheckState(Readiness.CRITICAL, MISSES_UNTIL_CRITICAL, failed=True)


class CheckFailed(Exception):
    """A missed check; the text is the reason, written for a log line."""

    def __init__(self, text: str, *, inconclusive: bool = False) -> None:
        super().__init__(text)
        self.inconclusive = inconclusive
        """Nothing came from the worker. It may be busy, or the check could not be sent (no descriptor, name or
        route)."""


class WorkerCheck:
    """Checks one worker forever.

    ``on_change`` gets the new readiness and the reason, at once. ``on_failure`` is called before it when a ready worker
    has failed, but not for timeouts. ``on_miss`` gets the reason of a miss if it differs from that of the miss before.
    """

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
        self._pending: _PendingCheck | None = None
        """The check that is being sent, or that has timed out and still waits for its response."""
        self._tls: ssl.SSLContext | None = None
        self._round_scope = trio.CancelScope()
        self._target: object = None
        """What is checked, and how often."""
        self.configure(url, path, period=period, timeout=timeout)
        self.process_exited = trio.Event()
        """Set when the worker's process has exited; never set if its process is not known."""
        self.state = CheckState()
        self.last_miss = ""
        """Why the latest check was missed; empty if it passed."""

    async def run(self) -> None:
        """Check forever. A worker that is not ready yet is checked more often at first, to see its start at once."""
        begun = trio.current_time()
        try:
            while True:
                with trio.CancelScope() as self._round_scope:
                    await self._check_and_wait(begun)
                if self._round_scope.cancelled_caught:  # the target has changed
                    self._close()
        finally:
            self._close()

    async def _check_and_wait(self, begun: float) -> None:
        started = trio.current_time()
        await self._check_once()
        if self._pending is None:
            waiting = self.state.readiness is not Readiness.PASSING
            soon = max(0.05, (started - begun) / 5)
            await trio.sleep_until(started + (min(self._period, soon) if waiting else self._period))

    def configure(self, url: WorkerUrl, path: str, *, period: float, timeout: float) -> None:
        """Check this target from now on. The state stays as it is until the next check."""
        if self._target == (url, path, period, timeout):
            return
        self._target = (url, path, period, timeout)
        self._period = period
        self._timeout = timeout
        self._path = f"{url.path}{path}"
        self._endpoint = url.endpoint
        self._tls = (self._tls or ssl.create_default_context()) if url.secure else None
        self._request = encode_request(url, path)
        self._round_scope.cancel()

    def process_started(self) -> None:
        """A process of the worker is now watched; its exit will be reported."""
        self.process_exited = trio.Event()

    def process_ended(self) -> None:
        """The process has exited: the worker is critical at once, before any check is missed."""
        self.process_exited.set()
        self._transition(self.state.exited(), "its process has ended")

    async def wait_worker_gone(self) -> None:
        """Wait until the process has exited. Never returns if another process has passed a check since."""
        await self.process_exited.wait()
        if self.state.readiness is Readiness.PASSING:
            await trio.sleep_forever()

    async def _check_once(self) -> None:
        exited = self.process_exited.is_set() if self._pending is None else self._pending.process_exited
        try:
            await self._check_response()
        except CheckFailed as error:
            self._record_miss(str(error))
            self._transition(
                self.state.missed(inconclusive=error.inconclusive),
                f"{MISSES_UNTIL_CRITICAL} checks missed, the last: {error}",
            )
        else:
            self.last_miss = ""
            if exited == self.process_exited.is_set():  # ignore a response begun by a process that has exited since
                self._transition(self.state.passed(), "it answers")

    def _record_miss(self, why: str) -> None:
        changed, self.last_miss = why != self.last_miss, why
        if changed:
            self._on_miss(why)

    def _transition(self, state: CheckState, reason: str) -> None:
        before, self.state = self.state, state
        if state.failed and not before.failed and before.readiness is not Readiness.STARTING:
            self._on_failure()
        if state.readiness is not before.readiness:
            self._on_change(state.readiness, reason)

    async def _check_response(self) -> None:
        """Send one GET, or wait one more period for the pending one. Raises :class:`CheckFailed` without a 2xx
        response."""
        timeout = self._timeout if self._pending is None else self._period
        try:
            with trio.fail_after(timeout):
                status = await self._read_status()
        except trio.TooSlowError:
            raise self._timed_out() from None
        except trio.BrokenResourceError as error:
            self._close()
            raise CheckFailed(describe_error(error.__cause__, self._endpoint)) from None
        except OSError as error:
            self._close()
            raise CheckFailed(describe_error(error, self._endpoint), inconclusive=not caused_by_worker(error)) from None
        except CheckFailed:
            self._close()
            raise
        self._close()
        if not 200 <= status <= 299:
            hint = "; set --worker-check to a path that answers 2xx" if status < 500 else ""
            raise CheckFailed(f"GET {self._path} answered {status}{hint}")

    async def _read_status(self) -> int:
        if self._pending is None:
            stream = await connect(self._endpoint, self._tls)
            self._pending = _PendingCheck(stream, trio.current_time(), self.process_exited.is_set())
            await stream.send_all(self._request)
            self._pending.sent = True
        return await self._pending.status()

    def _timed_out(self) -> CheckFailed:
        """The error for a timeout. Gives up a check that could not be sent, or has been pending for too long."""
        waited = self._timeout if self._pending is None else trio.current_time() - self._pending.started_at
        if self._pending is not None and (not self._pending.sent or waited >= max(MAX_PENDING_SECONDS, self._timeout)):
            self._close()
        return CheckFailed(f"no answer within {self._timeout:g} s", inconclusive=True)

    def _close(self) -> None:
        if self._pending is not None:
            self._pending.close()
            self._pending = None


class _PendingCheck:
    """One check on its connection. Waiting for its status can be cancelled and continued later."""

    def __init__(self, stream: Stream, started_at: float, process_exited: bool) -> None:
        self._stream = stream
        self._response = ResponseReader()
        self.started_at = started_at
        self.process_exited = process_exited
        """Whether the worker's process was known to have exited when the check was sent."""
        self.sent = False

    async def status(self) -> int:
        """Reads a short response to its end: a connection closed in the middle makes many workers log an error."""
        response = self._response
        try:
            while not response.complete and response.bytes_read < MAX_RESPONSE_BYTES:
                data = await self._stream.receive_some(4096)
                response.feed_untrusted(data)
                if not data:
                    break
        except NotHttp:
            if response.status is None:
                raise CheckFailed("the response is not HTTP") from None
        if response.status is None:
            raise CheckFailed(
                "the connection was closed without an answer"
                if response.bytes_read < MAX_RESPONSE_BYTES
                else "no end of headers"
            )
        return response.status

    def close(self) -> None:
        close(self._stream)
