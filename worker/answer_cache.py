"""An ASGI middleware that remembers answers which depend on nothing but the request: embeddings, scores, labels.

    app = AnswerCache(app, paths=["/v1/embeddings"])

The rules:

- Only POST to one of the paths is cached, by a digest of path, query, content type, body and Authorization.
- Only an answer of 200 in one piece is kept, of at most `max_answer` bytes, and for at most `ttl` seconds.
  `Cache-Control: no-store` in the request or the answer, and `Set-Cookie` in the answer, prevent it.
- Equal requests that come at once are run once in this process. If that answer is not kept, each of them is run.
- A cached answer has `Age` in seconds (RFC 9111) and `Cache-Status` (RFC 9211).
- A store that fails is left out: the request is run.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import anyio
import msgspec

from rumormill.worker.asgi import (
    App,
    ClientGoneError,
    IncomingRequest,
    KeptAnswer,
    RawHeaders,
    Receive,
    Scope,
    Send,
    problem,
    read_request,
    send_answer,
    without_bypasses,
)
from rumormill.worker.errors import BodyTooLongError, StoreUnavailableError
from rumormill.worker.idempotency import receive_once
from rumormill.worker.memory_store import MemoryStore
from rumormill.worker.recorder import AnswerRecorder
from rumormill.worker.stores import ValueStore

TTL: Final = 300.0
"""Seconds for which an answer is kept. More saves more; less follows a change of the model sooner."""
MAX_ANSWER: Final = 1024 * 1024
MAX_BODY: Final = 1024 * 1024
NAME: Final = "rumormill"


class AnswerCache:
    """Wraps an ASGI app."""

    def __init__(
        self,
        app: App,
        store: ValueStore | None = None,
        *,
        paths: Collection[str],
        ttl: float = TTL,
        max_answer: int = MAX_ANSWER,
        max_body: int = MAX_BODY,
    ) -> None:
        """Without a `store`, answers are kept in this process, in at most 64 MiB.

        A request to one of the `paths` with a body longer than `max_body` is answered 413.
        """
        self._app = app
        self._store: ValueStore = MemoryStore() if store is None else store
        self._paths = frozenset(paths)
        self._ttl = ttl
        self._max_answer = max_answer
        self._max_body = max_body
        self._running: dict[bytes, anyio.Event] = {}
        """By key: set when the request that is being run has ended."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        try:
            request = await read_request(scope, receive, self._max_body)
        except ClientGoneError:
            return
        except BodyTooLongError as error:
            await send_answer(send, problem(error))
            return
        await self._serve(request, scope, receive_once(request.body, receive), send)

    async def _serve(self, request: IncomingRequest, scope: Scope, receive: Receive, send: Send) -> None:
        if _forbids(request.headers):
            await self._app(scope, receive, send)
            return
        key = _digest(request)
        cached = await self._get(key)
        if cached is None and (running := self._running.get(key)) is not None:
            await running.wait()
            cached = await self._get(key)
        if cached is not None:
            answer, left = cached
            await send_answer(send, answer, *_cache_headers(answer, left))
            return
        await self._run(key, scope, receive, send)

    async def _run(self, key: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request. It speaks for its equals unless one of them does already."""
        ended = anyio.Event()
        leads = self._running.setdefault(key, ended) is ended

        async def conclude(answer: KeptAnswer) -> RawHeaders:
            if not recorder.began:
                await self._put(key, answer)
            ended.set()
            return [(b"cache-status", f"{NAME}; fwd=miss".encode())]

        recorder = AnswerRecorder(send, conclude, self._max_answer)
        try:
            await self._app(without_bypasses(scope), receive, recorder.send)
        finally:
            ended.set()
            if leads:
                del self._running[key]

    async def _get(self, key: bytes) -> tuple[KeptAnswer, float] | None:
        with suppress(StoreUnavailableError, msgspec.MsgspecError):
            found = await self._store.get(key)
            if found is not None:
                return KeptAnswer.decode(found[0]), found[1]
        return None

    async def _put(self, key: bytes, answer: KeptAnswer) -> None:
        if answer.status != 200 or answer.body is None or _forbids(answer.headers):
            return
        if any(name.lower() == b"set-cookie" for name, _ in answer.headers):
            return
        answer.kept_at = time.time()
        with suppress(StoreUnavailableError):
            await self._store.put(key, answer.encode(), self._ttl)


def _digest(request: IncomingRequest) -> bytes:
    digest = hashlib.blake2b(digest_size=20)
    headers = (request.header("content-type") or b"", request.header("authorization") or b"")
    for part in (request.path.encode(), request.query, *headers, request.body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _forbids(headers: RawHeaders) -> bool:
    return any(name.lower() == b"cache-control" and b"no-store" in value.lower() for name, value in headers)


def _cache_headers(answer: KeptAnswer, left: float) -> RawHeaders:
    age = max(int(time.time() - answer.kept_at), 0)
    return [(b"age", str(age).encode()), (b"cache-status", f"{NAME}; hit; ttl={int(left)}".encode())]
