"""One request of a probe, on a connection of its own. Its answer is bounded, and how far it came is always known."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable

import trio

from rumormill.sidecar.http_exchange import (
    NotHttp,
    ResponseReader,
    Stream,
    caused_by_worker,
    close,
    connect,
    describe_error,
)
from rumormill.sidecar.probes.expectations import NotExpected, count
from rumormill.sidecar.settings_values import HostPort

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 512 << 10
"""A vector of 16 384 numbers takes about 360 KB. Reading 512 KB of JSON holds up gossip for about 10 ms."""


class NoAnswer(Exception):
    """The connection ended without a whole answer. The text is the reason, in plain English."""

    def __init__(self, text: str, *, local: bool = False) -> None:
        super().__init__(text)
        self.local = local
        """Whether this machine could not ask: no descriptor, name or route."""


class HttpAttempt:
    """One request. :meth:`run` may be cancelled; :meth:`progress` then says how far it came."""

    def __init__(self, endpoint: HostPort, tls: ssl.SSLContext | None, request: bytes) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._request = request
        self._began = trio.current_time()
        self._connected = False
        self._latest: float | None = None
        self.response = ResponseReader(MAX_BODY_BYTES + 1)

    async def run(self, on_body: Callable[[bytearray], bool]) -> None:
        """Send the request and read the answer to its end, or until ``on_body`` is true for the body so far.

        Raises :class:`NoAnswer`, and :class:`NotExpected` for what is not HTTP or too long.
        """
        try:
            stream = await connect(self._endpoint, self._tls)
            try:
                await stream.send_all(self._request)
                self._connected = True
                await self._read(stream, on_body)
            finally:
                close(stream)
        except trio.BrokenResourceError as error:
            raise self._lost(error.__cause__) from None
        except OSError as error:
            raise self._lost(error) from None

    async def _read(self, stream: Stream, on_body: Callable[[bytearray], bool]) -> None:
        response = self.response
        while not response.complete:
            data = await stream.receive_some(16 << 10)
            if data:
                self._latest = trio.current_time()
            try:
                response.feed_untrusted(data)
            except NotHttp as error:
                raise NotExpected(f"the answer is not HTTP ({error})") from None
            if len(response.body) > MAX_BODY_BYTES:
                raise NotExpected(f"the answer is longer than {MAX_BODY_BYTES >> 10} KiB")
            if response.status is None and response.bytes_read > MAX_HEAD_BYTES:
                raise NotExpected(f"the headers are longer than {MAX_HEAD_BYTES >> 10} KiB")
            if on_body(response.body):
                return
            if not data and not response.complete:
                raise NoAnswer(f"the connection was closed {self._how_far()}")

    def _lost(self, error: BaseException | None) -> NoAnswer:
        if isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE) and self._connected:
            return NoAnswer(f"the connection was reset {self._how_far()}")
        local = isinstance(error, OSError) and not caused_by_worker(error)
        return NoAnswer(describe_error(error, self._endpoint), local=local)

    def _how_far(self) -> str:
        """How much of the answer has come."""
        response = self.response
        if response.status is None:
            return "in the middle of the headers" if response.bytes_read else "without an answer"
        body = count(len(response.body), "byte")
        return f"in the middle of the answer, after status {response.status} and {body} of the body"

    def progress(self) -> str:
        """What has come so far, for a probe that gives up."""
        now, response = trio.current_time(), self.response
        if self._latest is None:
            return f"no answer within {now - self._began:.3g} s" + (
                "" if self._connected else ", not even a connection"
            )
        if response.status is None:
            return f"only a part of the headers within {now - self._began:.3g} s"
        if not response.body:
            return f"status {response.status} and headers, then nothing for {now - self._latest:.3g} s"
        body = count(len(response.body), "byte")
        return (
            f"status {response.status} and only {body} of the answer within {now - self._began:.3g} s, "
            f"the last {now - self._latest:.3g} s ago"
        )
