"""The client's own figures: how many requests each release answered, how many failed, and how fast they were.

    figures = Figures("embed", path="/run/app/figures.json")
    http = httpx2.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed")

`rumormill canary run --figures FILE` reads its gates from the file. `figures.json()` gives the same to an app that
prefers to serve it, and `figures.prometheus()` gives it as Prometheus text, under the names that the gates query.

Every worker that was asked counts. A worker that failed a request has failed it, even if another then answered. If a
hedge overtook a worker, that worker took as long as the request. If the caller gave a request up (a cancelled task, an
`asyncio.timeout`), it counts as cancelled at every worker that was being asked, with the time it had waited. If it had
waited longer than nine answers in ten take, it hung, and is an error too: a release that answers nothing must not look
free of errors.

Counts and percentiles cover the last minute, and at most the last 2048 answers of a release. The time of a request ends
with the head of its answer: the rest of a stream depends on its content.

Several processes may share one file (figures_parts.py). It then holds the sum of all of them.
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec

from rumormill.client.observability.figures_parts import (
    QUANTILES,
    WINDOW,
    Counts,
    FiguresFile,
    FiguresPart,
    ReleaseFigures,
    SharedFile,
    bucket_of,
    quantile_index,
    summed,
)
from rumormill.client.rules.response_class import status_like
from rumormill.client.rules.retries import ATTEMPTS, Attempt
from rumormill.client.rules.verdicts import VERDICT
from rumormill.ring.worker import Worker

MAX_RECENT = 2048
MAX_RELEASES = 64
"""Releases that are counted separately. Any further ones are counted together."""
OTHERS = "(others)"
WRITE_EVERY = 1.0
HUNG_QUANTILE = 0.9
"""A cancelled request hung if it had waited longer than this share of the answers took. Less counts callers who change
their mind as errors; more misses hung requests that callers cancelled early."""
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram's buckets, seconds."""


class Outcome(enum.Enum):
    """How a request ended for one worker."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    HUNG = "hung"
    """Cancelled after a longer wait than most answers take. It counts as an error."""

    @property
    def failed(self) -> bool:
        return self in (Outcome.ERROR, Outcome.HUNG)

    @property
    def cancelled(self) -> bool:
        return self in (Outcome.CANCELLED, Outcome.HUNG)


@dataclass(slots=True)
class _ReleaseCounters:
    recent: deque[tuple[float, float, Outcome]] = field(default_factory=lambda: deque(maxlen=MAX_RECENT))
    """The time, duration and outcome of each request."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))


class Figures:
    """Counts by release, for any number of clients in any threads. ``path`` is written at most once a second."""

    def __init__(
        self, service: str, *, path: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.service = service
        self._file = SharedFile(Path(path)) if path is not None else None
        self._clock = clock
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        """Start from zero. A forked child does too, because the parent keeps its own counts."""
        self._lock = threading.Lock()
        self._releases: dict[str, _ReleaseCounters] = {}
        self._written = 0.0
        self._threshold = (float("-inf"), 0.0)

    def note(self, release: str, seconds: float, *, failed: bool) -> None:
        """One request ended."""
        self._note(release, seconds, Outcome.ERROR if failed else Outcome.OK)

    def note_cancelled(self, release: str, seconds: float) -> None:
        """The caller cancelled one request after this long."""
        self._note(release, seconds, Outcome.HUNG if seconds > self._hung_threshold() else Outcome.CANCELLED)

    def _note(self, release: str, seconds: float, outcome: Outcome) -> None:
        now = self._clock()
        with self._lock:
            counters = self._releases.get(release)
            if counters is None:
                name = release if len(self._releases) < MAX_RELEASES else OTHERS
                counters = self._releases.setdefault(name, _ReleaseCounters())
            counters.recent.append((now, seconds, outcome))
            counters.outcomes[outcome] += 1
            counters.seconds += seconds
            for position, bound in enumerate(BOUNDS):
                counters.buckets[position] += seconds <= bound
            due = self._file is not None and now - self._written >= WRITE_EVERY
            if due:
                self._written = now
        if due:
            with contextlib.suppress(OSError):  # figures must not fail a request; their reader sees their age
                self.write()

    def _hung_threshold(self) -> float:
        """The time that nine answers in ten take at most, of all releases; 0 without recent answers."""
        now = self._clock()
        if now - self._threshold[0] >= WRITE_EVERY:
            recent = self._recent()
            times = sorted(took for entries in recent.values() for took, outcome in entries if outcome is Outcome.OK)
            self._threshold = now, times[quantile_index(len(times), HUNG_QUANTILE)] if times else 0.0
        return self._threshold[1]

    def _recent(self) -> dict[str, list[tuple[float, Outcome]]]:
        since = self._clock() - WINDOW
        with self._lock:
            return {
                name: [(took, outcome) for at, took, outcome in counters.recent if at >= since]
                for name, counters in self._releases.items()
            }

    def figures(self) -> dict[str, ReleaseFigures]:
        """The last minute in this process, by release."""
        return {name: _summary(entries) for name, entries in self._recent().items()}

    def json(self) -> bytes:
        """The figures of all processes that share the file, as `rumormill canary run --figures` reads them."""
        return msgspec.json.encode(self._file_content())

    def write(self) -> None:
        """Replace this process's part, and the file as the sum of all parts. Raises OSError."""
        if self._file is not None:
            self._file.write(self._part())
            self._file.write_sum(self._file_content())

    def _file_content(self) -> FiguresFile:
        now = self._clock()
        others = self._file.others(self.service, now) if self._file is not None else []
        releases = summed([self._part(), *others]) if others else self.figures()
        return FiguresFile(self.service, now, WINDOW, releases)

    def _part(self) -> FiguresPart:
        return FiguresPart(
            self.service, self._clock(), {name: _counts(entries) for name, entries in self._recent().items()}
        )

    def prometheus(self) -> str:
        """Prometheus text with counts since the start: requests by outcome, and a histogram of their times."""
        lines = [
            "# TYPE rumormill_client_requests_total counter",
            "# TYPE rumormill_client_request_seconds histogram",
        ]
        with self._lock:
            for name, counters in sorted(self._releases.items()):
                labels = f'service="{_escaped(self.service)}",release="{_escaped(name)}"'
                counts = counters.outcomes
                requests = counts.total()
                lines += [
                    f'rumormill_client_requests_total{{{labels},outcome="{outcome.value}"}} {counts[outcome]}'
                    for outcome in Outcome
                ]
                lines += [
                    f'rumormill_client_request_seconds_bucket{{{labels},le="{bound:g}"}} {count}'
                    for bound, count in zip(BOUNDS, counters.buckets, strict=True)
                ]
                lines += [
                    f'rumormill_client_request_seconds_bucket{{{labels},le="+Inf"}} {requests}',
                    f"rumormill_client_request_seconds_sum{{{labels}}} {counters.seconds:.6f}",
                    f"rumormill_client_request_seconds_count{{{labels}}} {requests}",
                ]
        # The format requires the lines of a family to be together.
        return "\n".join(sorted(lines, key=lambda line: ("_seconds" in line, not line.startswith("#")))) + "\n"

    def transport(self, inner: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
        """A transport that counts the requests and passes them to a pool's transport."""
        return _CountingTransport(self, inner)

    def sync_transport(self, inner: httpx2.BaseTransport) -> httpx2.BaseTransport:
        """The same for a `SyncPool`."""
        return _SyncCountingTransport(self, inner)

    @contextlib.contextmanager
    def _counted(self, request: httpx2.Request) -> Iterator[Callable[[httpx2.Response], None]]:
        """Count the outcome of a request. Yields a function that takes its answer."""
        asked: list[Attempt] = []
        request.extensions[ATTEMPTS] = asked
        began = time.perf_counter()
        try:
            yield lambda response: self._answered(response, time.perf_counter() - began)
        except httpx2.TransportError as error:
            self._failed(error, time.perf_counter() - began)
            raise
        except Exception:
            raise
        except BaseException:
            # Cancelled or interrupted: the workers being asked had not answered for this long.
            self._count_cancelled(asked, time.perf_counter() - began)
            raise

    def _answered(self, response: httpx2.Response, took: float) -> None:
        worker = response.extensions.get("rumormill_worker")
        self._count_failed_attempts(response.extensions.get(ATTEMPTS, ()), worker, took)
        if worker is not None:
            status = status_like(response.status_code, response.extensions.get(VERDICT))
            self.note(worker.release, took, failed=status >= 500)

    def _failed(self, error: httpx2.TransportError, took: float) -> None:
        attempts, worker = getattr(error, "attempts", ()), getattr(error, "worker", None)
        self._count_failed_attempts(attempts, None, took)
        if worker is not None and not attempts:
            self.note(worker.release, took, failed=True)

    def _count_cancelled(self, attempts: Sequence[Attempt], waited: float) -> None:
        self._count_failed_attempts([attempt for attempt in attempts if attempt.failure is not None], None, waited)
        for attempt in attempts:
            if attempt.failure is None:
                self.note_cancelled(attempt.worker.release, waited - (attempt.began - attempts[0].began))

    def _count_failed_attempts(self, attempts: Sequence[Attempt], answered: Worker | None, took: float) -> None:
        """Count the attempts that brought no answer. The caller may never notice them, but a gate must."""
        for number, attempt in enumerate(attempts):
            if attempt.worker is answered:
                continue
            if attempt.failure is None:
                if number == 0:  # overtaken, so at least as slow as the whole request
                    self.note(attempt.worker.release, took, failed=False)
            elif not attempt.failure.local_error:
                failure = attempt.failure
                failed = failure.status is None or status_like(failure.status, failure.verdict) >= 500
                self.note(attempt.worker.release, took, failed=failed)


_ALL: weakref.WeakSet[Figures] = weakref.WeakSet()


def _after_fork() -> None:
    for figures in _ALL:
        figures._begin()


os.register_at_fork(after_in_child=_after_fork)


class _CountingTransport(httpx2.AsyncBaseTransport):
    def __init__(self, figures: Figures, inner: httpx2.AsyncBaseTransport) -> None:
        self._figures = figures
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        with self._figures._counted(request) as answered:
            response = await self._inner.handle_async_request(request)
        answered(response)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _SyncCountingTransport(httpx2.BaseTransport):
    def __init__(self, figures: Figures, inner: httpx2.BaseTransport) -> None:
        self._figures = figures
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        with self._figures._counted(request) as answered:
            response = self._inner.handle_request(request)
        answered(response)
        return response

    def close(self) -> None:
        self._inner.close()


def _summary(entries: list[tuple[float, Outcome]]) -> ReleaseFigures:
    counts = _counts(entries)
    times = sorted(took for took, _ in entries)
    p50, p90, p95, p99 = (times[quantile_index(len(times), share)] if times else None for share in QUANTILES)
    return ReleaseFigures(counts.requests, counts.errors, p50, p90, p95, p99, counts.cancelled)


def _counts(entries: list[tuple[float, Outcome]]) -> Counts:
    errors = sum(outcome.failed for _, outcome in entries)
    cancelled = sum(outcome.cancelled for _, outcome in entries)
    return Counts(len(entries), errors, cancelled, Counter(bucket_of(took) for took, _ in entries))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
