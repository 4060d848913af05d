"""A figures file that several processes share. Each process writes a part of its own beside it; the file is their sum.

The rules:

- A part is `FILE.part-PID-TOKEN`. Its process replaces it atomically, and then replaces FILE with the sum of all fresh
  parts. So FILE is right whichever process wrote it last, and its readers need not know about parts.
- A part counts for a minute after it was written. So the requests of a process that has ended still count for that
  long; then any process that finds the part removes it. A process without traffic needs no part.
- Percentiles cannot be added, so a part has a histogram, whose buckets grow by 2 %. The percentile of a sum is the
  upper end of a bucket, and at most 2 % too high.
"""

from __future__ import annotations

import math
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

WINDOW = 60.0
"""Seconds that the percentiles and counts cover."""
QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""The percentiles that are reported."""
MAX_PARTS = 256
"""Parts that are read. More processes are not expected to share one file."""
MAX_PART_BYTES = 1 << 20
_HALF_WRITTEN = ".new"
_GROWTH = 1.02
_SMALLEST = 1e-4
_MAX_BUCKET = 1000


class ReleaseFigures(msgspec.Struct, frozen=True):
    """One release over the last minute. Times are in seconds, and None if there were no requests."""

    requests: int
    errors: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    cancelled: int = 0
    """Requests that their caller cancelled. Those that hung are errors too."""


class FiguresFile(msgspec.Struct, frozen=True):
    """The content of FILE."""

    service: str
    at: float
    """Seconds since 1970."""
    window: float
    releases: dict[str, ReleaseFigures]


class Counts(msgspec.Struct):
    """One release in one process, over the minute before its part was written."""

    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    times: dict[int, int] = {}
    """The number of requests in each bucket of the histogram."""


class FiguresPart(msgspec.Struct):
    """One process's figures."""

    service: str
    at: float
    releases: dict[str, Counts]


def bucket_of(seconds: float) -> int:
    """The histogram bucket of a duration."""
    if seconds <= _SMALLEST:
        return 0
    return min(math.ceil(math.log(seconds / _SMALLEST) / math.log(_GROWTH)), _MAX_BUCKET)


def quantile_index(count: int, share: float) -> int:
    """The index of a percentile among this many sorted durations."""
    return min(count - 1, int(count * share))


def summed(parts: Iterable[FiguresPart]) -> dict[str, ReleaseFigures]:
    """The sum of the figures of several processes."""
    releases: dict[str, Counts] = {}
    for part in parts:
        for name, counts in part.releases.items():
            total = releases.setdefault(name, Counts())
            total.requests += counts.requests
            total.errors += counts.errors
            total.cancelled += counts.cancelled
            total.times = Counter(total.times) + Counter(counts.times)
    return {name: _figures(counts) for name, counts in releases.items()}


def _figures(counts: Counts) -> ReleaseFigures:
    p50, p90, p95, p99 = (_quantile(counts.times, share) for share in QUANTILES)
    return ReleaseFigures(counts.requests, counts.errors, p50, p90, p95, p99, counts.cancelled)


def _quantile(times: Mapping[int, int], share: float) -> float | None:
    wanted = quantile_index(sum(times.values()), share)
    for position, many in sorted(times.items()):
        wanted -= many
        if wanted < 0:
            return float(_SMALLEST * _GROWTH**position)
    return None


class SharedFile:
    """FILE and the part of this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = secrets.token_hex(4)

    @property
    def _own(self) -> Path:
        # Computed each time, because a forked child has another PID. The token tells containers with equal PIDs apart.
        return self._path.with_name(f"{self._prefix}{os.getpid()}-{self._token}")

    @property
    def _prefix(self) -> str:
        return f"{self._path.name}.part-"

    def write(self, part: FiguresPart) -> None:
        """Replace this process's part. Raises OSError."""
        self._replace(self._own, msgspec.json.encode(part))

    def write_sum(self, file: FiguresFile) -> None:
        """Replace FILE. Raises OSError."""
        self._replace(self._path, msgspec.json.encode(file))

    def _replace(self, path: Path, data: bytes) -> None:
        """Replace a file atomically, so that no reader sees half of it."""
        beside = self._path.with_name(f"{self._own.name}{_HALF_WRITTEN}")
        beside.write_bytes(data)
        beside.replace(path)

    def others(self, service: str, now: float) -> list[FiguresPart]:
        """The fresh parts of other processes. Stale parts are removed, and unreadable ones are skipped."""
        own, found = self._own.name, []
        try:
            names = sorted(entry.name for entry in os.scandir(self._path.parent) if entry.name.startswith(self._prefix))
        except OSError:
            return []
        for name in names[:MAX_PARTS]:
            part = _read(self._path.with_name(name), now) if name != own else None
            if part is not None and part.service == service:
                found.append(part)
        return found


def _read(path: Path, now: float) -> FiguresPart | None:
    """The part if it is fresh. A stale one is removed."""
    part = _decoded(path)
    if abs(now - (part.at if part is not None else _written(path))) <= WINDOW:
        return part
    with suppress(OSError):  # another process has removed it, or this one may not
        path.unlink()
    return None


def _decoded(path: Path) -> FiguresPart | None:
    if path.suffix == _HALF_WRITTEN:
        return None
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_PART_BYTES), type=FiguresPart)
    except (OSError, msgspec.DecodeError):
        return None


def _written(path: Path) -> float:
    """When an incomplete part was written. A killed process may leave one."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
