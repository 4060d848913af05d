"""The readiness check: one HTTP GET, on a connection of its own.

A pass is a 2xx response within the timeout. Each check opens a new connection: a worker that accepts no more
connections cannot serve, even if an old connection still works.

A check that times out stays open, and each further period without its response is another miss. A worker that serves
one request at a time then answers it as soon as it gets to it, and its queue holds one check instead of one for each
period that it was busy.
"""

from __future__ import annotations

import ssl
from typing import Final

import trio

from rumormill.sidecar.health.observations import CheckMiss, MissKind
from rumormill.sidecar.http_exchange import (
    NotHttp,
    ResponseReader,
    Stream,
    caused_by_worker,
    close,
    connect,
    describe_error,
    encode_request,
    refused,
)
from rumormill.sidecar.settings_values import WorkerUrl

MAX_RESPONSE_BYTES: Final = 1 << 16
"""Reading stops here; the status of a longer response still counts."""
MAX_PENDING_SECONDS: Final = 30.0
"""Seconds after which an unanswered check is sent again on a new connection. With a larger value, a worker whose
connection was lost silently (its host restarted) is found healthy that much later. With a smaller one, more connections
wait in the queue of a busy worker."""


class CheckMissed(Exception):
    """The text is the reason, written for a log line."""

    def __init__(self, kind: MissKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ReadinessCheck:
    """Checks one target. Close it after use."""

    def __init__(
        self, url: WorkerUrl, path: str, *, period: float, timeout: float, busy_statuses: frozenset[int] = frozenset()
    ) -> None:
        """``period`` and ``timeout`` in seconds. ``busy_statuses`` may only mean that the worker is busy."""
        self._endpoint = url.endpoint
        self._path = f"{url.path}{path}"
        self._request = encode_request(url, path)
        self._period = period
        self._timeout = timeout
        self._busy_statuses = busy_statuses
        self._tls = ssl.create_default_context() if url.secure else None
        self._pending: _PendingCheck | None = None
        """The check that is being sent, or that has timed out and still waits for its response."""

    @property
    def pending(self) -> bool:
        """Whether a check waits for its response."""
        return self._pending is not None

    @property
    def asked_at(self) -> float | None:
        """When the pending check was sent; None without one."""
        return self._pending.started_at if self._pending else None

    async def run(self) -> CheckMiss | None:
        """Send one GET, or wait one more period for the pending one. None is a pass."""
        asked_at = trio.current_time() if self._pending is None else self._pending.started_at
        try:
            await self._check_response()
        except CheckMissed as miss:
            return CheckMiss(miss.kind, str(miss), asked_at)
        return None

    def close(self) -> None:
        if self._pending is not None:
            self._pending.close()
            self._pending = None

    async def _check_response(self) -> None:
        timeout = self._timeout if self._pending is None else self._period
        try:
            with trio.fail_after(timeout):
                status = await self._read_status()
        except trio.TooSlowError:
            raise self._timed_out() from None
        except trio.BrokenResourceError as error:
            self.close()
            raise CheckMissed(MissKind.BAD_ANSWER, describe_error(error.__cause__, self._endpoint)) from None
        except OSError as error:
            self.close()
            raise CheckMissed(_kind_of(error), describe_error(error, self._endpoint)) from None
        except CheckMissed:
            self.close()
            raise
        self.close()
        self._judge(status)

    def _judge(self, status: int) -> None:
        if not 200 <= status <= 299:
            hint = "; set --worker-check to a path that answers 2xx" if status < 500 else ""
            kind = MissKind.NO_ANSWER if status in self._busy_statuses else MissKind.BAD_ANSWER
            raise CheckMissed(kind, f"GET {self._path} answered {status}{hint}")

    async def _read_status(self) -> int:
        if self._pending is None:
            stream = await connect(self._endpoint, self._tls)
            self._pending = _PendingCheck(stream, trio.current_time())
            await stream.send_all(self._request)
            self._pending.sent = True
        return await self._pending.status()

    def _timed_out(self) -> CheckMissed:
        """The error for a timeout. Gives up a check that could not be sent, or has been pending for too long."""
        waited = self._timeout if self._pending is None else trio.current_time() - self._pending.started_at
        if self._pending is not None and (not self._pending.sent or waited >= max(MAX_PENDING_SECONDS, self._timeout)):
            self.close()
        return CheckMissed(MissKind.NO_ANSWER, f"no answer within {self._timeout:g} s")


def _kind_of(error: OSError) -> MissKind:
    if refused(error):
        return MissKind.REFUSED
    return MissKind.BAD_ANSWER if caused_by_worker(error) else MissKind.NOT_ASKED


class _PendingCheck:
    """One check on its connection. Waiting for its status can be cancelled and continued later."""

    def __init__(self, stream: Stream, started_at: float) -> None:
        self._stream = stream
        self._response = ResponseReader()
        self.started_at = started_at
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
                raise CheckMissed(MissKind.BAD_ANSWER, "the response is not HTTP") from None
        if response.status is None:
            raise CheckMissed(
                MissKind.BAD_ANSWER,
                "the connection was closed without an answer"
                if response.bytes_read < MAX_RESPONSE_BYTES
                else "no end of headers",
            )
        return response.status

    def close(self) -> None:
        close(self._stream)
