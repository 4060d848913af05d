"""A keep-alive HTTP worker that can be told to go wrong: ``python -m bench.fault_worker --port N --name w1``.

It answers a POST after ``--think`` ms with its own name. `PUT /fault/FAULT` changes what it does with every POST:

- `none`, `error` (500), `unavailable` (503 with Retry-After), `refuse` (400: the caller's own mistake),
- `hang` (no answer), `half` (headers, then silence), `reset` (in the middle of the body),
- `slow10` and `slow100` (that many times its own time), `alternate` (every second answer is a 500).

With `PUT /fault/FAULT?health`, ``GET /health`` does the same. `GET /received` lists when each POST came, in monotonic
seconds. With ``--single`` the worker is busy with one request at a time: nothing else is answered, and no check.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import time
from contextlib import suppress

from rumormill.cli.demo.worker import WorkerError, WorkerRequest

FAULTS = ("none", "error", "unavailable", "refuse", "hang", "half", "reset", "slow10", "slow100", "alternate")
STATUSES = {"error": 500, "unavailable": 503, "refuse": 400}
ERROR_SECONDS = 0.002
BACKLOG = 4096
NO_LINGER = struct.pack("ii", 1, 0)


class FaultWorker:
    """Serves one request after the other on each connection."""

    def __init__(self, name: str, think: float, single: bool) -> None:
        self.name = name
        self._think = think
        self._single = single
        self._fault = "none"
        self._health_too = False
        self._received: list[float] = []

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=BACKLOG, reuse_port=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, WorkerError):
            while (request := await _read(reader)) is not None:
                await self._answer(request, writer)
                await writer.drain()
                if not request.keep_alive:
                    break
        writer.close()

    async def _answer(self, request: WorkerRequest, writer: asyncio.StreamWriter) -> None:
        path, _, query = request.target.decode().partition("?")
        if request.method == "PUT" and path.startswith("/fault/"):
            self._fault, self._health_too = path.rpartition("/")[2], query == "health"
            writer.write(_response(200, b"{}"))
        elif path == "/received":
            writer.write(_response(200, json.dumps(self._received).encode()))
        elif request.method == "POST":
            self._received.append(time.monotonic())
            await self._work(writer, self._fault, self._think)
        else:
            await self._work(writer, self._fault if self._health_too else "none", 0.0)

    async def _work(self, writer: asyncio.StreamWriter, fault: str, think: float) -> None:
        body = json.dumps({"worker": self.name}).encode()
        if fault == "alternate":
            fault = "error" if len(self._received) % 2 else "none"
        if fault == "hang":
            await asyncio.get_running_loop().create_future()
        elif fault in STATUSES:
            await asyncio.sleep(ERROR_SECONDS)
            writer.write(_response(STATUSES[fault], b'{"error": "told to"}', fault == "unavailable"))
        elif fault in ("half", "reset"):
            answer = _response(200, body)
            writer.write(answer[: -len(body) + (5 if fault == "reset" else 0)])
            await writer.drain()
            if fault == "half":
                await asyncio.get_running_loop().create_future()
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            raise ConnectionResetError
        else:
            seconds = think * float(fault.removeprefix("slow")) if fault.startswith("slow") else think
            if self._single:
                time.sleep(seconds)  # busy on purpose: it shall not answer anything else
            else:
                await asyncio.sleep(seconds)
            writer.write(_response(200, body))


async def _read(reader: asyncio.StreamReader) -> WorkerRequest | None:
    request = WorkerRequest()
    while not request.complete:
        data = await reader.read(65536)
        if not data:
            return None
        request.feed(data)
    return request


def _response(status: int, body: bytes, retry_after: bool = False) -> bytes:
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + ("Retry-After: 1\r\n" if retry_after else "") + "\r\n").encode() + body


def _main() -> None:
    parser = argparse.ArgumentParser(description="A worker that can be told to go wrong.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="worker")
    parser.add_argument("--think", type=float, default=5.0, metavar="MS")
    parser.add_argument("--single", action="store_true", help="one request at a time, and deaf meanwhile")
    asked = parser.parse_args()
    asyncio.run(FaultWorker(asked.name, asked.think / 1000, asked.single).serve(asked.port))


if __name__ == "__main__":
    _main()
