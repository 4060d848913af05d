"""What a caller gets when no worker can serve: another service, a stale answer, or a default, in the order listed.

    pool.transport(fallbacks=[OtherService(light_pool.transport()), StaleAnswer(), DefaultAnswer(json={"labels": []})])

The rules:

- A fallback is due if the pool raises, or its last real answer is 429, 500, 502, 503 or 504, or a `classify` hook says
  that it is no answer. All other answers are the caller's. So are errors that say that the request itself or this
  process is at fault, and cancellation.
- `OtherService` is asked only if the request may be sent again: nothing was sent, every worker refused, or it is
  replayable. After the caller's own timeout it is not asked, because there is no time left.
- `StaleAnswer` gives the last good answer to the same request, with its age in `Age`.
- `DefaultAnswer` gives what it was made with.
- The first that has an answer wins. Its response says so in its extensions, under FALLBACK. If none has, the caller
  gets what the pool gave.

The rules are one generator. It yields what is to be asked or closed, and two thin loops do it, for tasks and threads
(fallback_loops.py).
"""

from __future__ import annotations

import hashlib
import json as json_codec
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

import httpx2

from rumormill.client.errors import NoWorkersError, PoolError, RequestNotReplayableError
from rumormill.client.rules.response_class import status_like
from rumormill.client.rules.verdicts import VERDICT

FALLBACK: Final = "rumormill_fallback"
"""A response's extensions hold a :class:`FallbackUsed` under this name if no worker of the pool gave it."""
FAILED_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
REFUSED_STATUSES: Final = frozenset({429, 503})
"""The worker refused before it acted."""
MAX_AGE: Final = 3600.0
MAX_BYTES: Final = 64 * 2**20
MAX_ANSWER: Final = 2**20

Transport = TypeVar("Transport", httpx2.AsyncBaseTransport, httpx2.BaseTransport)
Outcome = httpx2.Response | Exception | None
"""What a step came to."""
FallbackKind = Literal["other_service", "stale", "default"]


@dataclass(frozen=True, slots=True)
class FallbackUsed:
    """Which fallback gave the answer, and why it was needed."""

    kind: FallbackKind
    name: str
    """The name that the fallback was given."""
    reason: str
    """What the pool gave instead, for people."""
    status: int | None = None
    """The status of the pool's last real answer."""
    error: Exception | None = None
    """The pool's error."""
    age: float | None = None
    """Seconds since a stale answer was new."""


@dataclass(frozen=True, slots=True)
class OtherService(Generic[Transport]):
    """Asks another transport, such as that of a pool with a lighter model.

    A `Pool` takes transports for httpx2.AsyncClient, and a `SyncPool` those for httpx2.Client.
    """

    transport: Transport
    name: str = "other service"
    kind: ClassVar[FallbackKind] = "other_service"


@dataclass(frozen=True, slots=True)
class DefaultAnswer:
    """Gives the same answer to every request."""

    json: Any = None
    """The body as JSON, unless `content` is given."""
    content: bytes | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    name: str = "default"
    kind: ClassVar[FallbackKind] = "default"

    def response(self) -> httpx2.Response:
        content, headers = self.content, dict(self.headers)
        if content is None:
            content = json_codec.dumps(self.json).encode()
            headers = {"Content-Type": "application/json", **headers}
        return httpx2.Response(self.status, headers=headers, content=content)


@dataclass(frozen=True, slots=True)
class _Kept:
    at: float
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class StaleAnswer:
    """Keeps good answers in this process, and gives them while no worker can serve.

    Only a 200 that arrives whole is kept, unless `Cache-Control: no-store` stands in the request or the answer.
    Requests are the same if method, target, body, `Authorization`, `Accept` and `Content-Type` are. Pools and threads
    may share one.
    """

    kind: ClassVar[FallbackKind] = "stale"

    def __init__(
        self,
        *,
        max_age: float = MAX_AGE,
        max_bytes: int = MAX_BYTES,
        max_answer: int = MAX_ANSWER,
        name: str = "stale",
    ) -> None:
        """`max_age` in seconds. Beyond `max_bytes` in all, the answers that were used least recently are forgotten."""
        self.name = name
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._max_answer = max_answer
        self._lock = Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._size = 0

    def keep(self, request: httpx2.Request, response: Outcome, now: float) -> None:
        """Keep what the pool gave, if it is an answer that may be kept."""
        if not isinstance(response, httpx2.Response):
            return
        body = _memory(response.stream)
        if response.status_code != 200 or body is None or len(body) > self._max_answer:
            return
        if _no_store(request.headers) or _no_store(response.headers) or (key := _digest(request)) is None:
            return
        with self._lock:
            self._forget(key)
            self._kept[key] = _Kept(now, response.status_code, list(response.headers.raw), body)
            self._size += len(body)
            while self._size > self._max_bytes:
                self._forget(next(iter(self._kept)))

    def find(self, request: httpx2.Request, now: float) -> tuple[httpx2.Response, float] | None:
        """The kept answer to the same request, and its age in seconds."""
        key = None if _no_store(request.headers) else _digest(request)
        with self._lock:
            kept = self._kept.get(key) if key is not None else None
            if key is None or kept is None:
                return None
            age = now - kept.at
            if age > self._max_age:
                self._forget(key)
                return None
            self._kept.move_to_end(key)
        headers = [*kept.headers, (b"Age", str(int(age)).encode())]
        return httpx2.Response(kept.status, headers=headers, stream=httpx2.ByteStream(kept.body)), age

    def _forget(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._size -= len(kept.body)


_Fallback = OtherService[Any] | StaleAnswer | DefaultAnswer
AsyncFallback = OtherService[httpx2.AsyncBaseTransport] | StaleAnswer | DefaultAnswer
SyncFallback = OtherService[httpx2.BaseTransport] | StaleAnswer | DefaultAnswer


@dataclass(frozen=True, slots=True)
class AskPool:
    """Send the request to the pool."""


@dataclass(frozen=True, slots=True)
class AskOther(Generic[Transport]):
    """Send the request to this transport."""

    transport: Transport


@dataclass(frozen=True, slots=True)
class CloseAnswer:
    """Close this answer, which nobody will read."""

    response: httpx2.Response


Steps = Generator[AskPool | AskOther[Transport] | CloseAnswer, Outcome, httpx2.Response]


def serve(
    request: httpx2.Request,
    fallbacks: Sequence[OtherService[Transport] | StaleAnswer | DefaultAnswer],
    clock: Callable[[], float],
    *,
    replayable: bool,
) -> Steps[Transport]:
    """Yields steps, is sent their outcomes, and returns the answer. Raises the pool's error if nothing helps."""
    outcome = yield AskPool()
    if not _is_failure(outcome):
        for stale in (fallback for fallback in fallbacks if isinstance(fallback, StaleAnswer)):
            stale.keep(request, outcome, clock())
        return _given(outcome)
    may_ask = _may_ask_another(outcome, replayable=replayable) and _memory(request.stream) is not None
    for fallback in fallbacks:
        age, response = None, None
        match fallback:
            case OtherService() if may_ask:
                response = yield from _other_answer(fallback)
            case StaleAnswer():
                response, age = fallback.find(request, clock()) or (None, None)
            case DefaultAnswer():
                response = fallback.response()
        if response is not None:
            if isinstance(outcome, httpx2.Response):
                yield CloseAnswer(outcome)
            response.extensions[FALLBACK] = _used(fallback, outcome, age)
            return response
    return _given(outcome)


def _other_answer(
    fallback: OtherService[Transport],
) -> Generator[AskPool | AskOther[Transport] | CloseAnswer, Outcome, httpx2.Response | None]:
    """The other service's answer, if it is a good one."""
    response = yield AskOther(fallback.transport)
    if not isinstance(response, httpx2.Response):
        return None
    if _is_failure(response):
        yield CloseAnswer(response)
        return None
    return response


def checked_fallbacks(fallbacks: Iterable[object], kind: type[Any]) -> None:
    """Raises TypeError for what is no fallback, or asks a transport of the wrong kind."""
    for fallback in fallbacks:
        if isinstance(fallback, OtherService):
            if not isinstance(fallback.transport, kind):
                given = type(fallback.transport).__name__
                raise TypeError(f"OtherService({given}) does not fit this pool; it needs httpx2.{kind.__name__}")
        elif not isinstance(fallback, StaleAnswer | DefaultAnswer):
            raise TypeError(f"{fallback!r} is no fallback; give OtherService, StaleAnswer or DefaultAnswer")


def _is_failure(outcome: Outcome) -> bool:
    """Whether the pool failed, and not the request or this process."""
    if isinstance(outcome, httpx2.Response):
        return _status_like(outcome) in FAILED_STATUSES
    return isinstance(outcome, PoolError | httpx2.TimeoutException)


def _status_like(response: httpx2.Response) -> int:
    """The answer's status, or the one that means what a hook has said of it."""
    return status_like(response.status_code, response.extensions.get(VERDICT))


def _given(outcome: Outcome) -> httpx2.Response:
    """What the pool gave, as the caller gets it."""
    if isinstance(outcome, httpx2.Response):
        return outcome
    raise outcome or RuntimeError("the pool gave nothing")


def _may_ask_another(outcome: Outcome, *, replayable: bool) -> bool:
    match outcome:
        case httpx2.Response():
            return replayable or _status_like(outcome) in REFUSED_STATUSES
        case NoWorkersError():
            sent = any(attempt.failure is not None and attempt.failure.sent for attempt in outcome.attempts)
            return replayable or not sent
        case RequestNotReplayableError():
            return False
    return False


def _used(fallback: _Fallback, outcome: Outcome, age: float | None) -> FallbackUsed:
    if isinstance(outcome, httpx2.Response):
        status = outcome.status_code
        reason = f"the last worker that was asked answered {status}"
        return FallbackUsed(fallback.kind, fallback.name, reason, status=status, age=age)
    return FallbackUsed(fallback.kind, fallback.name, str(outcome), error=outcome, age=age)


def _memory(stream: object) -> bytes | None:
    """The body, if it is in memory."""
    return b"".join(stream) if isinstance(stream, httpx2.ByteStream) else None


def _no_store(headers: httpx2.Headers) -> bool:
    return "no-store" in headers.get("cache-control", "").lower()


def _digest(request: httpx2.Request) -> bytes | None:
    """What the same request has too. None if its body is a stream."""
    body = _memory(request.stream)
    if body is None:
        return None
    digest = hashlib.blake2b(digest_size=20)
    names = ("authorization", "accept", "content-type")
    read = (request.headers.get(name, "").encode("utf-8", "surrogateescape") for name in names)
    for part in (request.method.encode(), request.url.raw_path, *read, body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
