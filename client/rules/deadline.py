"""One deadline for all attempts at a request. Pure; times in seconds on the pool's clock.

The rules:

- The deadline is the earlier of the client's read timeout (`timeout=`) and the header `Rumormill-Deadline`, in
  milliseconds, both counted from the moment at which the request begins. It holds until the head of an answer has come.
  A stream then has the caller's own timeout between two pieces.
- Each attempt gets what is left, as its timeouts and as `Rumormill-Deadline`. So the last attempt ends in time, and a
  worker can see for how long anybody waits.
- No attempt begins after the deadline. The caller then gets the last real answer, or else `httpx2.ReadTimeout`.
- If every worker refused and the last refusal names a time (`Retry-After`), the workers are asked again after that
  time, if it ends before the deadline and the retry budget allows it. To it is added a decorrelated jitter, so that
  callers who were refused together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, MutableMapping
from math import inf
from typing import Any, Final

import httpx2

DEADLINE_HEADER: Final = "Rumormill-Deadline"
MOST_MILLISECONDS: Final = 86_400_000
JITTER_BASE, JITTER_CAP = 0.05, 2.0
"""Seconds. More spreads callers further, and makes each wait longer."""
REFUSED: Final = frozenset({429, 503})

_RAW_HEADER = DEADLINE_HEADER.encode()


def deadline_of(header: bytes | None, timeout: Mapping[str, float | None] | None, now: float) -> float:
    """When the request that begins now must be answered; infinite if nothing says so.

    Raises httpx2.LocalProtocolError for a header that is no number.
    """
    read = None if timeout is None else timeout.get("read")
    seconds = inf if read is None else read
    if header is not None:
        if not header.isdigit() or int(header) > MOST_MILLISECONDS:
            raise httpx2.LocalProtocolError(
                f"{DEADLINE_HEADER}: {header.decode('latin-1')!r} is no deadline; give milliseconds, such as 1500, "
                f"and at most {MOST_MILLISECONDS}"
            )
        seconds = min(seconds, int(header) / 1000)
    return now + seconds


def limit_timeouts(timeout: MutableMapping[str, Any], left: float) -> None:
    """Let each step of an attempt take no longer than what is left."""
    left = max(left, 0.0)
    for step in ("connect", "write", "read", "pool"):
        given = timeout.get(step)
        timeout[step] = left if given is None else min(given, left)


def deadline_header(left: float) -> tuple[bytes, bytes]:
    """The header that tells a worker what is left."""
    return _RAW_HEADER, str(max(int(left * 1000), 0)).encode()


def deadline_passed() -> httpx2.ReadTimeout:
    """What the caller gets if the deadline passes between two attempts."""
    return httpx2.ReadTimeout("the deadline passed before a worker had answered")


class RefusalBackoff:
    """How long one request waits before it asks workers again that have all refused it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._jitter = JITTER_BASE

    def pause(self, status: int, retry_after: str, left: float) -> float | None:
        """Seconds to wait after this last answer. None if there is no use, or no time, in waiting."""
        if left == inf or status not in REFUSED or not (retry_after.isascii() and retry_after.isdecimal()):
            return None
        jitter = min(self._rng.uniform(JITTER_BASE, 3 * self._jitter), JITTER_CAP)
        pause = float(retry_after) + jitter
        if pause >= left:
            return None
        self._jitter = jitter
        return pause
