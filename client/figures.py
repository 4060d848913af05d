"""The client's own figures: how many requests each release answered, how many failed, and how fast.

    figures = Figures("embed", path="/run/app/figures.json")
    http = httpx.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed")

The file is what `rumormill canary run --figures FILE` reads its gates from; `figures.json()` is the same for whoever
would rather serve it, and `figures.prometheus()` the same as Prometheus text, under the names its gates ask for.

Each worker that was asked counts: one that failed a request which another then answered has failed it all the same, and
one that a hedge overtook took as long as the request.

Percentiles are over the last minute, of at most the last 2048 answers a release; counts too. The time of a request ends
with the head of its answer: what a stream takes is its content's business.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from rumormill.client.course import Attempt
from rumormill.ring.worker import Worker

WINDOW = 60.0
"""Seconds that count for percentiles and for the counts beside them."""
KEPT = 2048
MAX_RELEASES = 64
"""Releases told apart; what is beyond is counted together."""
OTHERS = "(others)"
WRITE_EVERY = 1.0
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram's buckets, seconds."""


class ReleaseFigures(msgspec.Struct, frozen=True):
    """One release over the last minute. Times in seconds; None where nothing was answered."""

    requests: int
    errors: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class FiguresFile(msgspec.Struct, frozen=True):
    service: str
    at: float
    """Seconds since 1970."""
    window: float
    releases: dict[str, ReleaseFigures]


@dataclass(slots=True)
class _Release:
    recent: deque[tuple[float, float, bool]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """When, how long, whether it failed."""
    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))


class Figures:
    """Counts by release, of any number of clients in any threads. ``path`` is written at most once a second."""

    def __init__(
        self, service: str, *, path: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.service = service
        self._path = Path(path) if path is not None else None
        self._clock = clock
        self._lock = threading.Lock()
        self._releases: dict[str, _Release] = {}
        self._written = 0.0

    def note(self, release: str, seconds: float, *, failed: bool) -> None:
        """One request ended."""
        now = self._clock()
        with self._lock:
            held = self._releases.get(release)
            if held is None:
                name = release if len(self._releases) < MAX_RELEASES else OTHERS
                held = self._releases.setdefault(name, _Release())
            held.recent.append((now, seconds, failed))
            held.requests += 1
            held.errors += failed
            held.seconds += seconds
            for position, bound in enumerate(BOUNDS):
                held.buckets[position] += seconds <= bound
            due = self._path is not None and now - self._written >= WRITE_EVERY
            if due:
                self._written = now
        if due:
            with contextlib.suppress(OSError):  # no request fails for its figures' sake; who reads them sees their age
                self.write()

    def figures(self) -> dict[str, ReleaseFigures]:
        """The last minute by release."""
        since = self._clock() - WINDOW
        with self._lock:
            recent = {
                name: [(took, failed) for at, took, failed in held.recent if at >= since]
                for name, held in self._releases.items()
            }
        return {name: _summary(entries) for name, entries in recent.items()}

    def json(self) -> bytes:
        """The figures as `rumormill canary run --figures` reads them."""
        return msgspec.json.encode(FiguresFile(self.service, self._clock(), WINDOW, self.figures()))

    def write(self) -> None:
        """Replace the file in one step, so that no reader sees half of it. Raises OSError."""
        if self._path is None:
            return
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.write_bytes(self.json())
        beside.replace(self._path)

    def prometheus(self) -> str:
        """Prometheus text, counted since the start: requests by outcome, and a histogram of their times."""
        lines = [
            "# TYPE rumormill_client_requests_total counter",
            "# TYPE rumormill_client_request_seconds histogram",
        ]
        with self._lock:
            for name, held in sorted(self._releases.items()):
                labels = f'service="{_escaped(self.service)}",release="{_escaped(name)}"'
                counts = {"ok": held.requests - held.errors, "error": held.errors}
                lines += [
                    f'rumormill_client_requests_total{{{labels},outcome="{outcome}"}} {count}'
                    for outcome, count in counts.items()
                ]
                lines += [
                    f'rumormill_client_request_seconds_bucket{{{labels},le="{bound:g}"}} {count}'
                    for bound, count in zip(BOUNDS, held.buckets, strict=True)
                ]
                lines += [
                    f'rumormill_client_request_seconds_bucket{{{labels},le="+Inf"}} {held.requests}',
                    f"rumormill_client_request_seconds_sum{{{labels}}} {held.seconds:.6f}",
                    f"rumormill_client_request_seconds_count{{{labels}}} {held.requests}",
                ]
        # Families together, as the format asks for.
        return "\n".join(sorted(lines, key=lambda line: ("_seconds" in line, not line.startswith("#")))) + "\n"

    def transport(self, inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """A pool's transport that counts what passes through it."""
        return _Counting(self, inner)

    def sync_transport(self, inner: httpx.BaseTransport) -> httpx.BaseTransport:
        """The same for a `SyncPool`."""
        return _SyncCounting(self, inner)

    def _answered(self, response: httpx.Response, began: float) -> None:
        took = time.perf_counter() - began
        worker = response.extensions.get("rumormill_worker")
        self._missed(response.extensions.get("rumormill_attempts", ()), worker, took)
        if worker is not None:
            self.note(worker.release, took, failed=response.status_code >= 500)

    def _failed(self, error: httpx.TransportError, began: float) -> None:
        took = time.perf_counter() - began
        attempts, worker = getattr(error, "attempts", ()), getattr(error, "worker", None)
        self._missed(attempts, None, took)
        if worker is not None and not attempts:
            self.note(worker.release, took, failed=True)

    def _missed(self, attempts: Sequence[Attempt], answered: Worker | None, took: float) -> None:
        """Who was asked and did not answer: the caller may never notice, but a gate must."""
        for number, attempt in enumerate(attempts):
            if attempt.worker is answered:
                continue
            if attempt.failure is None:
                if number == 0:  # overtaken, and so at least as slow as the whole request
                    self.note(attempt.worker.release, took, failed=False)
            elif not attempt.failure.refused_here:
                self.note(attempt.worker.release, took, failed=True)


class _Counting(httpx.AsyncBaseTransport):
    def __init__(self, figures: Figures, inner: httpx.AsyncBaseTransport) -> None:
        self._figures = figures
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        try:
            response = await self._inner.handle_async_request(request)
        except httpx.TransportError as error:
            self._figures._failed(error, began)
            raise
        self._figures._answered(response, began)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _SyncCounting(httpx.BaseTransport):
    def __init__(self, figures: Figures, inner: httpx.BaseTransport) -> None:
        self._figures = figures
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        try:
            response = self._inner.handle_request(request)
        except httpx.TransportError as error:
            self._figures._failed(error, began)
            raise
        self._figures._answered(response, began)
        return response

    def close(self) -> None:
        self._inner.close()


def _summary(entries: list[tuple[float, bool]]) -> ReleaseFigures:
    times = sorted(took for took, _ in entries)
    errors = sum(failed for _, failed in entries)
    quantiles = (
        times[min(len(times) - 1, int(len(times) * part))] if times else None for part in (0.5, 0.9, 0.95, 0.99)
    )
    return ReleaseFigures(len(entries), errors, *quantiles)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
