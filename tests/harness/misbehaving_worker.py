"""An inference server over real HTTP that can go wrong in the ways that real ones do.

    async with trio.open_nursery() as nursery:
        worker = await MisbehavingWorker.start(nursery)
        worker.fault = Fault.NAN

Its health path answers 200 throughout, as that of a wedged engine does. `python tests/harness/misbehaving_worker.py`
runs one as a process; `PUT /fault/NAN` changes what it does, and `PUT /metrics` what its page of counters says.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio

DRIP_SECONDS = 1.0
LATE_SECONDS = 2.0
VECTOR = (0.6, 0.0, -0.8, 0.0)
"""What it embeds any text as; its norm is 1."""
WORDS = (" 8", " 9", " 10", " 11")


class Fault(enum.Enum):
    """What is wrong with it."""

    NONE = "right answers"
    HANGING = "every POST hangs"
    ERROR = "500 in 2 ms"
    UNAVAILABLE = "503 forever"
    OVERLOADED = "429 forever"
    NAN = "NaN in the vector; as text, the NaN logits' exclamation mark"
    NULL = "null in the vector"
    EMPTY = "empty data or choices"
    WRONG_LENGTH = "a vector of another length"
    ZEROS = "a vector of zeros"
    OTHER_VECTOR = "the vector of other weights"
    LATE = "the right answer in 2 s"
    HEADERS_ONLY = "headers, then silence"
    DRIP = "a byte a second"
    RESET = "a reset in the middle of the body"
    CLOSED = "the connection is closed in the middle of the body"
    NO_ANSWER = "the connection is closed without an answer"
    SPACE_FIRST = "right, but the first token is a space"
    EXCLAMATION = '"!" forever'
    NOT_HTTP = "something that is not HTTP"
    NOT_JSON = "HTML with status 200"
    ENDLESS = "a body without end"
    ENDLESS_HEAD = "headers without end"
    ECHO = "401 that repeats the headers of the request"


class MisbehavingWorker:
    """One server; ``fault`` may change at any time."""

    def __init__(self, fault: Fault = Fault.NONE) -> None:
        self.fault = fault
        self.url = ""
        self.requests: list[bytes] = []
        """Each request as it came, its body included."""
        self.connections = 0
        self.health_hangs = False
        """Whether its health path is not answered either."""
        self.metrics = ""
        """What ``/metrics`` answers."""
        self.slots = 0
        """What ``/props`` states as its capacity; 0 for nothing."""

    @classmethod
    async def start(cls, nursery: trio.Nursery, fault: Fault = Fault.NONE, port: int = 0) -> MisbehavingWorker:
        worker = cls(fault)
        serve = partial(trio.serve_tcp, worker._serve, port, host="127.0.0.1")
        listeners: Sequence[trio.SocketListener] = await nursery.start(serve)
        worker.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        return worker

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            request = await _request(stream)
            if request:
                self.requests.append(request)
                await self._answer(stream, request)

    async def _answer(self, stream: trio.SocketStream, request: bytes) -> None:
        method, path, *_ = request.decode("latin-1").split(" ", 2)
        if method == "PUT" and path.startswith("/fault/"):
            self.fault = Fault[path.rpartition("/")[2]]
        if method == "PUT" and path == "/metrics":
            self.metrics = request.partition(b"\r\n\r\n")[2].decode()
        if path == "/health" and self.health_hangs:
            await trio.sleep_forever()
        if method != "POST":
            props = b'{"total_slots": %d}' % self.slots if self.slots else b"ok"
            pages = {"/v1/models": b'{"data": [{"id": "tiny"}]}', "/metrics": self.metrics.encode(), "/props": props}
            await stream.send_all(_response(pages.get(path, b"ok")))
            return
        fields = json.loads(request.partition(b"\r\n\r\n")[2] or b"{}")
        await self._go_wrong(stream, fields, request)

    async def _go_wrong(self, stream: trio.SocketStream, fields: dict[str, Any], request: bytes) -> None:
        right = _response(_body(fields, self.fault))
        match self.fault:
            case Fault.HANGING | Fault.HEADERS_ONLY:
                head = right.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                await stream.send_all(head if self.fault is Fault.HEADERS_ONLY else b"")
                await trio.sleep_forever()
            case Fault.DRIP:
                await _drip(stream, right)
            case Fault.RESET | Fault.CLOSED:
                await stream.send_all(right[:-8])
                if self.fault is Fault.RESET:
                    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            case Fault.ENDLESS | Fault.ENDLESS_HEAD:
                begin, more = ENDLESS[self.fault]
                await stream.send_all(begin)
                while True:
                    await stream.send_all(more * 512)
            case Fault.ECHO:
                said = json.dumps({"error": request.partition(b"application/json\r\n")[2].decode("latin-1")})
                await stream.send_all(_response(said.encode(), 401))
            case Fault.NONE | Fault.NAN | Fault.EXCLAMATION if fields.get("stream"):
                await self._stream(stream, fields)
            case _:
                await trio.sleep(DELAYS.get(self.fault, 0))
                await stream.send_all(CANNED.get(self.fault, right))

    async def _stream(self, stream: trio.SocketStream, fields: dict[str, Any]) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for word in _words(fields, self.fault):
            choice = {"delta": {"content": word}} if "messages" in fields else {"text": word}
            await stream.send_all(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        await stream.send_all(b"data: [DONE]\n\n")


async def _request(stream: trio.SocketStream) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        data = await stream.receive_some(4096)
        if not data:
            return request
        request += data
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0]) and (data := await stream.receive_some(4096)):
        request, body = request + data, body + data
    return request


def _response(body: bytes, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _words(fields: dict[str, Any], fault: Fault) -> list[str]:
    number = int(fields.get("max_tokens", 16))
    if fault in (Fault.EXCLAMATION, Fault.NAN):
        return ["!"] * number
    words = [" ", "8", " 9"] if fault is Fault.SPACE_FIRST else WORDS
    return [words[position % len(words)] for position in range(number)]


def _body(fields: dict[str, Any], fault: Fault) -> bytes:
    if "messages" in fields or "prompt" in fields:
        text = "".join(_words(fields, fault))
        choice = {"message": {"role": "assistant", "content": text}} if "messages" in fields else {"text": text}
        return json.dumps({"choices": [] if fault is Fault.EMPTY else [choice]}).encode()
    vectors: dict[Fault, list[float | None]] = {
        Fault.NAN: [float("nan"), *VECTOR[1:]],
        Fault.NULL: [None, *VECTOR[1:]],
        Fault.WRONG_LENGTH: [0.6, 0.8],
        Fault.ZEROS: [0.0] * len(VECTOR),
        Fault.OTHER_VECTOR: [0.8, 0.6, 0.0, 0.0],
    }
    vector = vectors.get(fault, list(VECTOR))
    if "inputs" in fields:
        output = {"name": "y", "datatype": "FP32", "shape": [1, len(vector)], "data": vector}
        return json.dumps({"outputs": [] if fault is Fault.EMPTY else [output]}).encode()
    return json.dumps({"data": [] if fault is Fault.EMPTY else [{"index": 0, "embedding": vector}]}).encode()


async def _drip(stream: trio.SocketStream, right: bytes) -> None:
    head, separator, body = right.partition(b"\r\n\r\n")
    await stream.send_all(head + separator)
    for position in range(len(body)):
        await stream.send_all(body[position : position + 1])
        await trio.sleep(DRIP_SECONDS)


DELAYS = {Fault.LATE: LATE_SECONDS, Fault.ERROR: 0.002}
"""Seconds before an answer."""
CANNED = {
    Fault.ERROR: _response(b'{"error": {"message": "CUDA error: illegal memory access"}}', 500),
    Fault.UNAVAILABLE: _response(b"", 503),
    Fault.OVERLOADED: _response(b'{"error": "Model is overloaded"}', 429),
    Fault.NO_ANSWER: b"",
    Fault.NOT_HTTP: b"SSH-2.0-OpenSSH_9.2\r\n",
    Fault.NOT_JSON: _response(b"<html>welcome</html>"),
}
"""Answers whatever is asked."""
ENDLESS = {
    Fault.ENDLESS: (b"HTTP/1.1 200 OK\r\n\r\n[", b"0,"),
    Fault.ENDLESS_HEAD: (b"HTTP/1.1 200 OK\r\n", b"X-Padding: y\r\n"),
}
"""How an answer without end begins, and goes on."""


async def main() -> None:
    async with trio.open_nursery() as nursery:
        worker = await MisbehavingWorker.start(nursery, port=int(sys.argv[1]) if sys.argv[1:] else 0)
        print(worker.url, flush=True)


if __name__ == "__main__":
    trio.run(main)
