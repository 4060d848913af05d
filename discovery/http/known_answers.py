"""Answers that still hold, by the bytes of their requests.

Who polls sends the same bytes again and again. The same bytes are the same request with the same rights, so while the
view of the pool stands, its answer is known without parsing, without a look at the token and without waking a task.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rumormill.discovery.http.response import UndatedAnswer

MAX_KNOWN: Final = 256
"""Most requests whose answers are kept."""
MAX_REQUEST: Final = 2048
"""The longest of them, in bytes: with MAX_KNOWN half a megabyte for callers that make up requests."""


class KnownAnswer(NamedTuple):
    """What a request gets, and the route it is counted under."""

    route: str
    answer: UndatedAnswer


class KnownAnswers:
    """The answers of one revision of the view. The first question after a change forgets them all."""

    __slots__ = ("_by_request", "_revision")

    def __init__(self) -> None:
        self._by_request: dict[bytes, KnownAnswer] = {}
        self._revision = -1

    def get(self, request: bytes, revision: int) -> KnownAnswer | None:
        """The answer to these bytes, where it is known and the view is still the one that it was made of."""
        if revision != self._revision:
            self.clear()
            self._revision = revision
        return self._by_request.get(request)

    def add(self, request: bytes, known: KnownAnswer, revision: int) -> None:
        """Keep an answer that was made of the view at `revision`. Callers may make up requests without end, so when
        there is no more room, all go."""
        if revision != self._revision or len(request) > MAX_REQUEST:
            return
        if len(self._by_request) >= MAX_KNOWN:
            self.clear()
        self._by_request[request] = known

    def clear(self) -> None:
        """Forget all: what decides about requests has changed."""
        self._by_request.clear()
