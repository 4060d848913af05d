"""Classifies an answer by its status: what it says about the worker, and what it says about the request. Pure.

=====================  ========================  ==========================================
status                 counts against a worker   another worker is asked
=====================  ========================  ==========================================
503                    yes                       always: the worker refused before acting
429                    no, it counts as load     always, for the same reason
500, 502, 504          yes                       if the request may be sent again
other 5xx              yes                       no
501, 505, all others   no                        no: the status is about the request
=====================  ========================  ==========================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OVERLOADED_FOR: Final = 1.0
"""Seconds that a worker is skipped after a 429 that names no time."""
MAX_OVERLOADED_FOR: Final = 10.0
"""Upper limit in seconds for `Retry-After`: one answer must not keep a worker's keys away for good."""

_REFUSED = frozenset({429, 503})
_FAILED = frozenset({500, 502, 504})
_REQUEST_ERRORS = frozenset({501, 505})


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


def classify_response(status: int, retry_after: str = "") -> ResponseClass:
    """The class of an answer with this status. `retry_after` is the value of that header."""
    if status == 429:
        return ResponseClass(overloaded_for=_overloaded_for(retry_after), retryable=True)
    if status in _REFUSED:
        return ResponseClass(worker_failed=True, retryable=True)
    if status in _FAILED:
        return ResponseClass(worker_failed=True, retryable=True, may_have_acted=True)
    return ResponseClass(success=status < 400, worker_failed=status >= 500 and status not in _REQUEST_ERRORS)


def _overloaded_for(retry_after: str) -> float:
    # The header's other form is a date. It needs the worker's clock to agree with ours, so it is ignored.
    if retry_after.isascii() and retry_after.isdecimal():
        return min(float(retry_after), MAX_OVERLOADED_FOR)
    return OVERLOADED_FOR
