"""The worker of client_cost.py: as little of a server as a keep-alive client needs, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import resource
import sys

CHUNK = b"5\r\nhello\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "


class BenchServer(asyncio.Protocol):
    """One connection: answers every request at once; `/stream` ends when `/release` is asked for."""

    opened = 0
    waiting: list[asyncio.Transport] = []  # noqa: RUF012 - shared by all connections on purpose

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        BenchServer.opened += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) >= int(length or 0):
            self._received = b""
            self._answer(head.split(b" ", 2)[1])

    def _answer(self, target: bytes) -> None:
        if target == b"/stream":
            self._transport.write(HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK)
            BenchServer.waiting.append(self._transport)
            return
        body = b"{}"
        if target == b"/release":
            for transport in BenchServer.waiting:
                transport.write(CHUNK + b"0\r\n\r\n")
            BenchServer.waiting = []
        elif target == b"/connections":
            body = b'{"connections": %d}' % BenchServer.opened
        self._transport.write(HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    server = await asyncio.get_running_loop().create_server(BenchServer, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "serving", "url": f"http://127.0.0.1:{port}"}), file=sys.stderr, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
