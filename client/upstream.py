"""One attempt: one request to one worker over HTTP, and whether any of it was sent.

A worker has one line: connections of its own, kept while anyone may still ask it.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable
from typing import Any

import httpcore
import httpx

from rumormill.client.bodies import Body, read_response
from rumormill.client.descriptors import TooManyOpenFilesError, descriptor_shortage

CONNECT_LIMIT = 1.0
"""Seconds for a connection. Moving on without one is always safe, so this is shorter than a caller would choose."""
KEEPALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which common servers close theirs, because a request that
meets a closing connection counts as sent."""
IDLE_CONNECTIONS = 64
"""Kept for each worker; more save connecting after a burst, and cost the worker a socket each."""

# Plain HTTP needs no certificates, and loading them for every worker would take 20 ms each.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_NOT_WRITTEN = (httpcore.WriteError, httpcore.LocalProtocolError)


class SendProgress:
    """How far one attempt got, told by httpcore's trace; the caller's own trace, if there is one, is told too."""

    def __init__(self, request: httpx.Request) -> None:
        self.sent = False
        """Whether the worker may have got the head of the request whole. While False, it cannot have acted on it."""
        self._callers_trace = request.extensions.get("trace")

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """An httpcore trace callback."""
        if event == "http11.send_request_headers.started":
            self.sent = True
        elif event == "http11.send_request_headers.failed" and isinstance(info["exception"], _NOT_WRITTEN):
            # The head goes out in one write, and that write did not complete: nobody has seen the head's end.
            self.sent = False
        if self._callers_trace is not None:
            told = self._callers_trace(event, info)
            if inspect.isawaitable(told):
                await told


class Upstream:
    """The way to one worker's URL."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext]) -> None:
        """Raises httpx.UnsupportedProtocol for a URL that nothing can be sent to. `tls` is asked only for https."""
        try:
            self._base = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise httpx.UnsupportedProtocol(f"the worker's URL {url!r} is none: {error}") from None
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise httpx.UnsupportedProtocol(f"the worker's URL {url!r} is neither http nor https")
        self._path = self._base.raw_path.rstrip(b"/")
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls() if self._base.scheme == "https" else _NO_TLS,
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS, keepalive_expiry=KEEPALIVE
            ),
        )
        self.in_use = 0
        """Requests under way, streams not yet closed included."""

    async def send(self, request: httpx.Request, body: Body, progress: SendProgress) -> httpx.Response:
        """The answer, whole where bodies.py says so. Raises what httpx raises; `progress` knows what was sent."""
        try:
            response = await self._transport.handle_async_request(self._address(request, body, progress))
        except httpx.ConnectError as error:
            shortage = descriptor_shortage(error)
            if shortage is not None:
                raise TooManyOpenFilesError(shortage) from error
            raise
        return await read_response(response)

    def _address(self, request: httpx.Request, body: Body, progress: SendProgress) -> httpx.Request:
        """The request to this worker: its scheme, host and port, and its path before the request's."""
        headers = request.headers.copy()
        headers["Host"] = self._base.netloc.decode("ascii")
        timeout = dict(request.extensions.get("timeout") or {})
        connect = timeout.get("connect")
        timeout["connect"] = CONNECT_LIMIT if connect is None else min(connect, CONNECT_LIMIT)
        return httpx.Request(
            request.method,
            self._base.copy_with(raw_path=self._path + request.url.raw_path),
            headers=headers,
            stream=body,
            extensions={**request.extensions, "timeout": timeout, "trace": progress.trace},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()
