"""Lets the caller judge answers by more than their status: the option `classify` of a pool.

    def classify(response: ResponseView) -> AnswerVerdict | None:
        if response.status == 200 and (response.body or b"").startswith(b'{"error"'):
            return AnswerVerdict.FAILED
        return None

The hook gets each answer before the pool acts on it. It sees the body if that has arrived whole (bodies.py). A stream,
a chunked answer and a long one have no body here: they are judged by their head. The hook runs in the task or thread
that has received the answer, without any lock. If it raises, the caller gets its exception.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cached_property

import httpx2

from rumormill.client.rules.bodies import BUFFER_LIMIT
from rumormill.client.rules.messages import WorkerAnswer
from rumormill.client.rules.response_class import AnswerVerdict, ResponseClass, classify_response

VERDICT = "rumormill_verdict"
"""An answer's extensions hold the hook's verdict under this name, if there is one."""


class ResponseView:
    """What a `classify` hook may read of an answer."""

    def __init__(self, answer: WorkerAnswer) -> None:
        self.status: int = answer.status
        self._answer = answer

    @cached_property
    def headers(self) -> httpx2.Headers:
        return httpx2.Headers(self._answer.headers)

    @cached_property
    def body(self) -> bytes | None:
        """The body, without its gzip or deflate. None if it is a stream, chunked, in another coding, or over 8 MiB."""
        stream = self._answer.body
        if not isinstance(stream, httpx2.ByteStream):
            return None
        raw = b"".join(stream)
        match self.headers.get("content-encoding", "identity").strip().lower():
            case "identity":
                return raw
            case "gzip" | "deflate":
                return _inflated(raw)
        return None


Classify = Callable[[ResponseView], AnswerVerdict | None]
"""Judges an answer. None leaves it to the status."""


def judged(answer: WorkerAnswer, classify: Classify | None) -> ResponseClass:
    """The class of this answer. Raises what the hook raises, and TypeError if that returns no verdict."""
    if classify is None:
        return classify_response(answer.status, answer.retry_after)
    verdict = classify(ResponseView(answer))
    if verdict is None:
        return classify_response(answer.status, answer.retry_after)
    if not isinstance(verdict, AnswerVerdict):
        raise TypeError(f"classify returned {verdict!r}; return an AnswerVerdict, or None to go by the status")
    answer.extensions[VERDICT] = verdict
    return classify_response(answer.status, answer.retry_after, verdict)


def _inflated(raw: bytes) -> bytes | None:
    """None if it is too long or broken: a few bytes may stand for gigabytes."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        body = decoder.decompress(raw, BUFFER_LIMIT + 1)
    except zlib.error:
        return None
    return body if decoder.eof and len(body) <= BUFFER_LIMIT else None
