"""Passes an app's answer on and keeps a copy of it.

The end of an answer is held back until the copy is in the store. So whoever has the whole answer can repeat the request
and gets the same. An answer in one piece is held back as a whole; of a stream only the last piece.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rumormill.worker.asgi import KeptAnswer, Message, RawHeaders, Send

Conclude = Callable[[KeptAnswer], Awaitable[RawHeaders]]
"""Called once with the whole answer, before its end is sent. Returns headers to add, which a stream cannot have."""


class AnswerRecorder:
    """The `send` that an app gets."""

    def __init__(self, send: Send, conclude: Conclude, max_answer: int) -> None:
        """An answer whose headers and body are longer than `max_answer` bytes is passed on, and its body not kept."""
        self._send = send
        self._conclude = conclude
        self._room = max_answer
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._connected = True
        self.began = False
        """Part of the answer has been passed on."""
        self.complete = False
        """The app has given its whole answer."""
        self.failure: Exception | None = None
        """What `conclude` raised. The app may have caught it."""

    async def send(self, message: Message) -> None:
        """An ASGI app's messages."""
        match message["type"]:
            case "http.response.start" | "http.response.body" if self.complete:
                pass
            case "http.response.start":
                self._start = message
                self._room -= sum(len(name) + len(value) for name, value in message.get("headers", ()))
            case "http.response.body" if self._start is not None:
                await self._body(self._start, message)
            case _:
                await self._pass_on(message)

    async def _body(self, start: Message, message: Message) -> None:
        body = message.get("body", b"")
        self._room -= len(body)
        if self._room >= 0:
            self._chunks.append(body)
        else:
            self._chunks.clear()
        if message.get("more_body", False):
            await self._begin(start)
            await self._pass_on(message)
            return
        self.complete = True
        kept = b"".join(self._chunks) if self._room >= 0 else None
        headers = [(bytes(name), bytes(value)) for name, value in start.get("headers", ())]
        try:
            added = await self._conclude(KeptAnswer(start["status"], headers, kept))
        except Exception as error:
            self.failure = error
            raise
        await self._begin({**start, "headers": [*headers, *added]})
        await self._pass_on(message)

    async def _begin(self, start: Message) -> None:
        if not self.began:
            self.began = True
            await self._pass_on(start)

    async def _pass_on(self, message: Message) -> None:
        """Send to the caller. One that is gone does not stop the app: the caller's next try gets the answer."""
        if self._connected:
            try:
                await self._send(message)
            except OSError:
                self._connected = False
