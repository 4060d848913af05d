"""An ASGI middleware that runs a request with an `Idempotency-Key` once, however often it is sent.

    app = Idempotency(app, RedisStore.from_url("redis://10.0.0.5:6379"))

The rules:

- The first request with a key claims it and is run. Its answer is kept for the window (60 s) and given to every repeat,
  with `Idempotency-Replayed: true`. A repeat that comes meanwhile waits.
- The same key with another method, path, query, body or Authorization is refused with 422.
- An answer whose status says that the worker refused before it acted (NOT_KEPT) is not kept: the next request with the
  key is run. Every other answer is kept, errors too: a worker that answers 500 may have acted.
- An app that raises counts as an answer of 500. An app that is cancelled counts as one that died.
- The answer is in the store before the caller has all of it. A stream is passed on as it comes, but for its last piece.
  An answer that is longer than `max_answer` is passed on and not kept: a repeat is answered 409, and not run.
- If the store cannot be asked, the request is not run and answered 503 with Retry-After. If the store fails while the
  request runs, the caller gets the true answer, with `Idempotency-Kept: false`.
- A caller that hangs up does not stop the app, which sees no disconnect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from rumormill.worker.asgi import (
    App,
    ClientGoneError,
    IncomingRequest,
    KeptAnswer,
    Message,
    RawHeaders,
    Receive,
    Scope,
    Send,
    problem,
    problem_answer,
    read_request,
    request_of,
    send_answer,
    without_bypasses,
)
from rumormill.worker.claim_rules import Claim, ClaimRules, checked_key
from rumormill.worker.claims import acquire, finish, release, run_held
from rumormill.worker.errors import AnswerNotKeptError, BadKeyError, EffectError
from rumormill.worker.memory_store import MemoryStore
from rumormill.worker.recorder import AnswerRecorder
from rumormill.worker.stores import ClaimStore

KEY_HEADER: Final = "Idempotency-Key"
METHODS: Final = frozenset({"POST", "PATCH"})
"""Methods whose key counts. All others are idempotent by themselves (RFC 9110, 9.2.2) or change nothing."""
NOT_KEPT: Final = frozenset({401, 403, 407, 408, 421, 425, 429, 503})
"""Statuses by which a worker refuses before it acts."""
MAX_BODY: Final = 1024 * 1024
"""Bytes of a request with a key. More takes more memory for each request that runs."""
MAX_ANSWER: Final = 1024 * 1024
"""Bytes of an answer that is kept. More takes more memory, here and in the store."""
REPLAYED: Final = (b"idempotency-replayed", b"true")
UNKEPT: Final = (b"idempotency-kept", b"false")

KeyFunction = Callable[[IncomingRequest], str | bytes | None]


def header_key(request: IncomingRequest) -> bytes | None:
    """The value of `Idempotency-Key`, for methods that need one."""
    return request.header(KEY_HEADER) if request.method in METHODS else None


def request_fingerprint(request: IncomingRequest) -> bytes:
    """A digest of all that a repeat must have in common with the first request."""
    digest = hashlib.blake2b(digest_size=16)
    authorization = request.header("authorization") or b""
    for part in (request.method.encode(), request.path.encode(), request.query, authorization, request.body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


class Idempotency:
    """Wraps an ASGI app. It holds no connection of its own: close the store when the app ends."""

    def __init__(
        self,
        app: App,
        store: ClaimStore | None = None,
        *,
        rules: ClaimRules | None = None,
        key: KeyFunction = header_key,
        required: bool = False,
        max_body: int = MAX_BODY,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        """Without a `store`, claims live in this process, which is right for one process only.

        `key` gives a request's key, or None for one that is simply run. A function other than the default makes the
        body of every request be read first. With `required`, POST and PATCH without a key are answered 400.
        """
        self._app = app
        self._store: ClaimStore = MemoryStore() if store is None else store
        self._rules = ClaimRules() if rules is None else rules
        self._key = key
        self._required = required
        self._max_body = max_body
        self._max_answer = max_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except EffectError as error:
            await send_answer(send, problem(error))
        except ClientGoneError:
            pass

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key is header_key and header_key(request_of(scope, b"")) is None:
            self._check_required(scope["method"])
            await self._app(scope, receive, send)
            return
        request = await read_request(scope, receive, self._max_body)
        key = self._key(request)
        if key is None:
            self._check_required(request.method)
            await self._app(scope, receive_once(request.body, receive), send)
            return
        name = checked_key(key if isinstance(key, bytes) else key.encode())
        owned = await acquire(self._store, self._rules, name, request_fingerprint(request))
        if isinstance(owned, Claim):
            await self._run(owned, without_bypasses(scope), request.body, send)
        else:
            await _replay(owned, send)

    def _check_required(self, method: str) -> None:
        if self._required and method in METHODS:
            raise BadKeyError(f"{method} needs a key here; send the header {KEY_HEADER} with a UUID of its own")

    async def _run(self, claim: Claim, scope: Scope, body: bytes, send: Send) -> None:
        recorder = AnswerRecorder(send, lambda answer: self._conclude(claim, answer), self._max_answer)
        receive = receive_once(body, _never)
        try:
            await run_held(self._store, self._rules, claim, lambda: self._run_app(claim, scope, receive, recorder))
        except EffectError as error:
            if recorder.began:
                raise RuntimeError(f"an answer was cut off: {error}") from error
            raise

    async def _run_app(self, claim: Claim, scope: Scope, receive: Receive, recorder: AnswerRecorder) -> None:
        try:
            await self._app(scope, receive, recorder.send)
            if not recorder.complete:
                raise RuntimeError("the app ended without a whole answer")
        except Exception:
            if not recorder.complete:
                detail = "the worker failed while it ran this request, and may have acted or not"
                await self._conclude(claim, problem_answer(500, "failed", detail))
            if recorder.failure is None:
                raise
        if recorder.failure is not None:
            raise recorder.failure

    async def _conclude(self, claim: Claim, answer: KeptAnswer) -> RawHeaders:
        """Keep the answer, or forget the claim. Returns headers for the caller. Raises ClaimLostError."""
        if answer.status in NOT_KEPT:
            await release(self._store, self._rules, claim)
            return []
        kept = await finish(self._store, self._rules, claim, answer.encode())
        return [] if kept else [UNKEPT]


async def _replay(encoded: bytes, send: Send) -> None:
    answer = KeptAnswer.decode(encoded)
    if answer.body is None:
        raise AnswerNotKeptError(
            f"this was run and answered with {answer.status}, and the answer was too long to keep; it is not run again"
        )
    await send_answer(send, answer, REPLAYED)


def receive_once(body: bytes, after: Callable[[], Awaitable[Message]]) -> Receive:
    """A `receive` that gives the whole body, and then what `after` gives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await after()

    return receive


async def _never() -> Message:
    await anyio.sleep_forever()
    raise RuntimeError("woken from a sleep without end")
