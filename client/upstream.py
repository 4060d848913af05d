"""The connections to one worker: one request to it over HTTP, and whether any of that request was sent."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable
from typing import Any

import httpcore2
import httpx2

from rumormill.client.bodies import Body, read_response
from rumormill.client.descriptors import TooManyOpenFilesError, descriptor_shortage

CONNECT_LIMIT = 1.0
"""Seconds for a connection. Until there is one, moving on to another worker is safe. So the limit is shorter than most
callers would choose."""
KEEPALIVE = 4.0
"""Seconds that an idle connection is kept. Common servers close theirs after 5 s, and a request on a closing connection
counts as sent, so this is less."""
IDLE_CONNECTIONS = 64
"""Idle connections kept for each worker. More saves connecting after a burst, and costs the worker a socket each."""

# Plain HTTP needs no certificates, and loading them would take 20 ms for each worker.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_NOT_WRITTEN = (httpcore2.WriteError, httpcore2.LocalProtocolError)


class SendProgress:
    """How far one attempt got, from httpcore2's trace events. They are passed on to the caller's own trace, if any."""

    def __init__(self, request: httpx2.Request) -> None:
        self.sent = False
        """Whether the worker may have received the whole head of the request. Without it, it cannot have acted."""
        self._callers_trace = request.extensions.get("trace")

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """An httpcore2 trace callback."""
        if event == "http11.send_request_headers.started":
            self.sent = True
        elif event == "http11.send_request_headers.failed" and isinstance(info["exception"], _NOT_WRITTEN):
            # The head is sent in one write, which did not complete: the worker has not seen the end of the head.
            self.sent = False
        if self._callers_trace is not None:
            result = self._callers_trace(event, info)
            if inspect.isawaitable(result):
                await result


class Upstream:
    """The connections to one worker's URL."""

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext]) -> None:
        """Raises httpx2.UnsupportedProtocol for a URL that cannot be used. `tls` is called only for https."""
        try:
            self._base = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise httpx2.UnsupportedProtocol(f"the worker's URL {url!r} is invalid: {error}") from None
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise httpx2.UnsupportedProtocol(f"the worker's URL {url!r} is neither http nor https")
        self._path = self._base.raw_path.rstrip(b"/")
        self._transport = httpx2.AsyncHTTPTransport(
            verify=tls() if self._base.scheme == "https" else _NO_TLS,
            trust_env=False,
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS, keepalive_expiry=KEEPALIVE
            ),
        )
        self.in_use = 0
        """Requests in flight, including streams that are not closed yet."""

    async def send(self, request: httpx2.Request, body: Body, progress: SendProgress) -> httpx2.Response:
        """The answer, buffered as bodies.py says. Raises what httpx2 raises. `progress` then tells what was sent."""
        try:
            response = await self._transport.handle_async_request(self._build_request(request, body, progress))
        except httpx2.ConnectError as error:
            shortage = descriptor_shortage(error)
            if shortage is not None:
                raise TooManyOpenFilesError(shortage) from error
            raise
        return await read_response(response)

    def _build_request(self, request: httpx2.Request, body: Body, progress: SendProgress) -> httpx2.Request:
        """The request with this worker's scheme, host and port, and with its path as a prefix."""
        headers = request.headers.copy()
        headers["Host"] = self._base.netloc.decode("ascii")
        timeout = dict(request.extensions.get("timeout") or {})
        connect = timeout.get("connect")
        timeout["connect"] = CONNECT_LIMIT if connect is None else min(connect, CONNECT_LIMIT)
        return httpx2.Request(
            request.method,
            self._base.copy_with(raw_path=self._path + request.url.raw_path),
            headers=headers,
            stream=body,
            extensions={**request.extensions, "timeout": timeout, "trace": progress.trace},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()
