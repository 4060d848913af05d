"""Classifies an answer by its status, or by the verdict of the caller's hook (verdicts.py). Pure.

The class says what the answer means for the worker, and what it means for the request.

=====================  ========================  ==========================================
status                 counts against a worker   another worker is asked
=====================  ========================  ==========================================
503                    yes                       always: the worker refused before acting
429                    no, it counts as load     always, for the same reason
500, 502, 504          yes                       if the request may be sent again
other 5xx              yes                       no
501, 505, all others   no                        no: the status is about the request
=====================  ========================  ==========================================

The verdicts ANSWER, FAILED, REFUSED and OVERLOADED mean what 200, 500, 503 and 429 mean.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

OVERLOADED_FOR: Final = 1.0
"""Seconds that a worker is skipped after a 429 that names no time."""
MAX_OVERLOADED_FOR: Final = 10.0
"""Upper limit in seconds for `Retry-After`: one answer must not keep a worker's keys away for good."""

_REFUSED = frozenset({429, 503})
_FAILED = frozenset({500, 502, 504})
_REQUEST_ERRORS = frozenset({501, 505})


class AnswerVerdict(enum.Enum):
    """What a `classify` hook says about an answer, instead of its status."""

    ANSWER = enum.auto()
    """It is an answer, whatever its status: the caller gets it, and it speaks for the worker."""
    FAILED = enum.auto()
    """The worker failed, and may have acted. It counts against the worker. Another is asked if the request may be sent
    again."""
    REFUSED = enum.auto()
    """The worker refused before it acted. It counts against the worker, and another is always asked."""
    OVERLOADED = enum.auto()
    """The worker has too much to do. It is skipped for its `Retry-After`, and another is always asked."""


_STATUS_LIKE = {
    AnswerVerdict.ANSWER: 200,
    AnswerVerdict.FAILED: 500,
    AnswerVerdict.REFUSED: 503,
    AnswerVerdict.OVERLOADED: 429,
}


@dataclass(frozen=True, slots=True)
class ResponseClass:
    """What one answer is evidence of. (Finagle's term.)"""

    success: bool = False
    """Its duration is typical of such requests. A failure is often quicker, and a refusal always is."""
    worker_failed: bool = False
    """It counts against the worker."""
    overloaded_for: float = 0.0
    """Seconds for which the worker says it is overloaded."""
    retryable: bool = False
    """Another worker may answer the same request better."""
    may_have_acted: bool = False
    """The worker may have acted on the request, so another is asked only if the request may be sent again."""


def classify_response(status: int, retry_after: str = "", verdict: AnswerVerdict | None = None) -> ResponseClass:
    """The class of an answer with this status, or with this verdict. `retry_after` is the value of that header."""
    status = status_like(status, verdict)
    if status == 429:
        return ResponseClass(overloaded_for=_overloaded_for(retry_after), retryable=True)
    if status in _REFUSED:
        return ResponseClass(worker_failed=True, retryable=True)
    if status in _FAILED:
        return ResponseClass(worker_failed=True, retryable=True, may_have_acted=True)
    return ResponseClass(success=status < 400, worker_failed=status >= 500 and status not in _REQUEST_ERRORS)


def status_like(status: int, verdict: AnswerVerdict | None) -> int:
    """The status that means what this verdict means, or this status if there is no verdict."""
    return status if verdict is None else _STATUS_LIKE[verdict]


def _overloaded_for(retry_after: str) -> float:
    # The header's other form is a date. It needs the worker's clock to agree with ours, so it is ignored.
    if retry_after.isascii() and retry_after.isdecimal():
        return min(float(retry_after), MAX_OVERLOADED_FOR)
    return OVERLOADED_FOR
