"""What the status of an answer says of the worker and of the request. Pure.

=====================  ========================  ==========================================
status                 counts against a worker   another worker is asked
=====================  ========================  ==========================================
503                    yes                       always: it refused before acting
429                    no, as load               always, for the same reason
500, 502, 504          yes                       where the request may be sent again
other 5xx              yes                       no
501, 505, all others   no                        no: they speak of the request
=====================  ========================  ==========================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FULL_FOR: Final = 1.0
"""Seconds that a worker which answered 429 is passed over, where it does not say how long."""
MAX_FULL_FOR: Final = 10.0
"""A longer `Retry-After` is held to be this long: one answer must not keep a worker's keys away for good."""

_REFUSED = frozenset({429, 503})
_FAILED = frozenset({500, 502, 504})
_OF_THE_REQUEST = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one answer is evidence of."""

    good: bool = False
    """It says how long such requests take: a failure is often quicker, and a refusal always is."""
    sick: bool = False
    """It counts against the worker."""
    full_for: float = 0.0
    """Seconds for which the worker has enough to do."""
    ask_another: bool = False
    """Another worker may answer the same request better."""
    acted: bool = False
    """The worker may have acted on the request, so another is asked only if it may be sent again."""


def judge(status: int, retry_after: str = "") -> Judgement:
    """The evidence in an answer with this status; `retry_after` is its header of that name."""
    if status == 429:
        return Judgement(full_for=_full_for(retry_after), ask_another=True)
    if status in _REFUSED:
        return Judgement(sick=True, ask_another=True)
    if status in _FAILED:
        return Judgement(sick=True, ask_another=True, acted=True)
    return Judgement(good=status < 400, sick=status >= 500 and status not in _OF_THE_REQUEST)


def _full_for(retry_after: str) -> float:
    # The other form is a date, of a clock that need not be ours.
    return min(float(retry_after), MAX_FULL_FOR) if retry_after.isascii() and retry_after.isdecimal() else FULL_FOR
