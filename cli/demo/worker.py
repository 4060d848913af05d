"""The demo's worker: a small embedding server.

``python -m rumormill.cli.demo.worker --port N`` answers ``POST /v1/embeddings`` as OpenAI's API does (``input`` is a
text or a list of texts, ``encoding_format`` float or base64) and ``GET /health``. It knows nothing of rumormill: like
any model server it is checked by the sidecar next to it. Each answer names the worker that gave it (``X-Answered-By``).
On SIGTERM it accepts no new connections, answers the requests it has begun, and exits with code 0.

It imports only the standard library, httptools and mmh3, so a restarted worker serves again within 0.1 s.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import httptools

from rumormill.cli.demo.embedding import MODEL, embed

ANSWERED_BY = "X-Answered-By"
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_TEXTS = 256
MAX_CONNECTIONS = 1024
IDLE_SECONDS = 75.0
"""A connection without a complete request for this time is closed, so that slow senders cannot use up all slots."""
SHUTDOWN_GRACE_SECONDS = 5.0
"""Seconds that requests in flight may take after SIGTERM."""

_REASON_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
}


class WorkerError(Exception):
    """A request that cannot be served: the status, and one sentence for whoever sent it."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def as_json(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": "invalid_request_error", "param": self.param, "code": None}}


class WorkerRequest:
    """One request, parsed by httptools. Its size is limited while it arrives."""

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.body = bytearray()
        self.complete = False
        self.pipelined = False
        self._keep_alive = False
        self.parser = httptools.HttpRequestParser(self)
        self.bytes_before_body = 0
        self._headers_done = False

    def feed(self, data: bytes) -> None:
        """Raises :class:`WorkerError` for an invalid request, or for one that is too long."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise WorkerError(400, "This server does not change protocols; ask without an Upgrade header.") from None
        except httptools.HttpParserError as error:
            raise WorkerError(400, f"This is not an HTTP request: {error}.") from None
        if not self._headers_done:
            self.bytes_before_body += len(data)
        if self.bytes_before_body > MAX_HEAD_BYTES:
            raise WorkerError(431, f"Headers may take {MAX_HEAD_BYTES} bytes.")
        if len(self.body) > MAX_BODY_BYTES:
            raise WorkerError(413, f"A body may take {MAX_BODY_BYTES} bytes; send fewer texts at a time.")

    def on_message_begin(self) -> None:
        self.pipelined = self.complete

    def on_url(self, url: bytes) -> None:
        if not self.pipelined:
            self.target += url

    def on_headers_complete(self) -> None:
        if not self.pipelined:
            self._headers_done = True
            self.method = self.parser.get_method().decode("ascii", "replace")

    def on_body(self, body: bytes) -> None:
        if not self.pipelined:
            self.body += body

    def on_message_complete(self) -> None:
        if not self.pipelined:
            self.complete = True
            self._keep_alive = self.parser.should_keep_alive()

    @property
    def keep_alive(self) -> bool:
        """Whether to keep the connection. A pipelined request is not served; closing tells its sender so."""
        return self._keep_alive and not self.pipelined

    @property
    def path(self) -> str:
        return self.target.decode("ascii", "replace").partition("?")[0]


def parse_request(body: bytes) -> tuple[list[str], str, bool]:
    """The texts to embed, the model, and whether the answer is in base64. Raises :class:`WorkerError`."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise WorkerError(400, 'The body is not JSON; send {"input": "some text"}.') from None
    if not isinstance(asked, dict) or "input" not in asked:
        raise WorkerError(400, 'The body has no "input"; send {"input": "some text"}.', "input")
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise WorkerError(400, '"input" must be a text or a list of texts, with at least one.', "input")
    if len(texts) > MAX_TEXTS:
        raise WorkerError(400, f'"input" holds {len(texts)} texts; at most {MAX_TEXTS} at a time.', "input")
    model = asked.get("model", MODEL)
    if not isinstance(model, str):
        raise WorkerError(400, '"model" must be a text.', "model")
    form = asked.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise WorkerError(400, '"encoding_format" must be "float" or "base64".', "encoding_format")
    return texts, model, form == "base64"


def embeddings(body: bytes) -> dict[str, Any]:
    """The answer to ``POST /v1/embeddings``. Raises :class:`WorkerError`."""
    texts, model, as_base64 = parse_request(body)
    words = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(embed(text), as_base64)}
            for index, text in enumerate(texts)
        ],
        "model": model,
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def _encoded(vector: list[float], as_base64: bool) -> list[float] | str:
    """As OpenAI encodes it: little-endian float32 in base64."""
    if not as_base64:
        return vector
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def answer(method: str, path: str, body: bytes) -> dict[str, Any]:
    """The answer to one request. Raises :class:`WorkerError`."""
    allowed = {"/v1/embeddings": "POST", "/health": "GET", "/healthz": "GET"}.get(path)
    if allowed is None:
        raise WorkerError(404, f"There is nothing at {path}; try POST /v1/embeddings or GET /health.")
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise WorkerError(405, f"{path} takes {allowed}, not {method}.")
    return embeddings(body) if allowed == "POST" else {"status": "ok"}


class EmbeddingServer:
    """Serves one request after the other on each connection, until a signal.

    ``service_time`` is added to the time of each answer, in seconds. With about the time of a small model, requests are
    in flight when a worker is killed.
    """

    def __init__(self, name: str, service_time: float = 0.0) -> None:
        self.name = name
        self.service_time = service_time
        self._finishing = False
        self._idle: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT. Raises OSError if the address cannot be bound."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = await asyncio.start_server(self._accept, host, port, backlog=MAX_CONNECTIONS)
        port = server.sockets[0].getsockname()[1]
        print(f"{self.name} embeds text at http://{host}:{port}/v1/embeddings", flush=True)
        await stop.wait()
        server.close()
        await self._finish()

    async def _finish(self) -> None:
        self._finishing = True
        for writer in self._idle:
            writer.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SHUTDOWN_GRACE_SECONDS)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve_connection(reader, writer)
        except (OSError, TimeoutError):
            pass  # the caller is gone, or never finished its request
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep = True
        while keep and not self._finishing:
            try:
                request = await self._read(reader, writer)
            except WorkerError as error:
                # Where the next request begins is unknown after an unreadable one, so the connection is closed.
                writer.write(self._reply(error.status, error.as_json(), keep=False))
                return
            if request is None:
                return
            status, answer_body = await self._respond(request)
            keep = request.keep_alive and not self._finishing
            writer.write(self._reply(status, answer_body, keep, bodiless=request.method == "HEAD"))
            await writer.drain()

    async def _respond(self, request: WorkerRequest) -> tuple[int, dict[str, Any]]:
        if request.method == "POST" and self.service_time:
            await asyncio.sleep(self.service_time)
        try:
            return 200, answer(request.method, request.path, bytes(request.body))
        except WorkerError as error:
            return error.status, error.as_json()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> WorkerRequest | None:
        """The next complete request; None if the caller closed the connection. Raises :class:`WorkerError`."""
        request = WorkerRequest()
        async with asyncio.timeout(IDLE_SECONDS):
            while not request.complete:
                if not request.target:
                    self._idle.add(writer)
                try:
                    data = await reader.read(65536)
                finally:
                    self._idle.discard(writer)
                if not data:
                    return None
                request.feed(data)
        return request

    def _reply(self, status: int, answer_body: dict[str, Any], keep: bool, bodiless: bool = False) -> bytes:
        body = json.dumps(answer_body, separators=(",", ":")).encode()
        head = (
            f"HTTP/1.1 {status} {_REASON_PHRASES[status]}\r\n"
            f"Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n"
            f"{ANSWERED_BY}: {self.name}\r\n\r\n"
        )
        return head.encode() + (b"" if bodiless else body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns 0 after a graceful end, 1 if the port cannot be bound."""
    parser = argparse.ArgumentParser(prog="rumormill-worker", description="A small, real embedding server.")
    parser.add_argument("--port", type=int, required=True, help="TCP port to listen on; 0 for any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--name", default="worker", help=f"what {ANSWERED_BY} says")
    parser.add_argument("--think", type=float, default=0.0, metavar="MS", help="milliseconds per answer, at least")
    options = parser.parse_args(arguments)
    server = EmbeddingServer(options.name, options.think / 1000)
    try:
        asyncio.run(server.serve(options.host, options.port))
    except OSError as error:
        print(
            f"error: cannot listen on {options.host}:{options.port}: {os.strerror(error.errno or 0)}", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
