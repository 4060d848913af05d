"""The client's own figures: how many requests each release answered, how many failed, and how fast.

    figures = Figures("embed", path="/run/app/figures.json")
    http = httpx.AsyncClient(transport=figures.transport(pool.transport()), base_url="http://embed")

The file is what `rumormill canary run --figures FILE` reads its gates from; `figures.json()` is the same for whoever
would rather serve it, and `figures.prometheus()` the same as Prometheus text, under the names its gates ask for.

Each worker that was asked counts: one that failed a request which another then answered has failed it all the same, and
one that a hedge overtook took as long as the request. A request that its caller gave up (a cancelled task, an
`asyncio.timeout`) counts as cancelled at whoever was being asked, with the time it had waited. If that was longer than
nine answers in ten take, it hung, and is an error too: a release that answers nobody must not pass for one without
errors.

Percentiles are over the last minute, of at most the last 2048 answers a release; counts too. The time of a request ends
with the head of its answer: what a stream takes is its content's business.

Several processes may keep one file (figures_parts.py): it holds the sum of all of them.
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

import httpx
import msgspec

from rumormill.client.figures_parts import (
    SHARES,
    WINDOW,
    Counts,
    FiguresFile,
    Part,
    ReleaseFigures,
    SharedFile,
    bucket,
    rank,
    summed,
)
from rumormill.client.retries import ATTEMPTS, Attempt
from rumormill.ring.worker import Worker

KEPT = 2048
MAX_RELEASES = 64
"""Releases told apart; what is beyond is counted together."""
OTHERS = "(others)"
WRITE_EVERY = 1.0
USUAL = 0.9
"""The part of the answers that are quicker than what a cancelled request may have waited for before it hung. Less, and
whoever changes their mind makes an error; more, and what callers give up in time is none."""
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram's buckets, seconds."""


class Outcome(enum.Enum):
    """How a request ended for one worker."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    HUNG = "hung"
    """Cancelled after a longer wait than most answers take."""

    @property
    def failed(self) -> bool:
        return self in (Outcome.ERROR, Outcome.HUNG)

    @property
    def cancelled(self) -> bool:
        return self in (Outcome.CANCELLED, Outcome.HUNG)


@dataclass(slots=True)
class _Release:
    recent: deque[tuple[float, float, Outcome]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """When, how long, and how it ended."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))


class Figures:
    """Counts by release, of any number of clients in any threads. ``path`` is written at most once a second."""

    def __init__(
        self, service: str, *, path: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.service = service
        self._file = SharedFile(Path(path)) if path is not None else None
        self._clock = clock
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        """Count from nothing, as a child does after a fork: what its parent counted stays its parent's."""
        self._lock = threading.Lock()
        self._releases: dict[str, _Release] = {}
        self._written = 0.0
        self._usual = (float("-inf"), 0.0)

    def note(self, release: str, seconds: float, *, failed: bool) -> None:
        """One request ended."""
        self._note(release, seconds, Outcome.ERROR if failed else Outcome.OK)

    def note_cancelled(self, release: str, seconds: float) -> None:
        """One request was given up by its caller after this long."""
        self._note(release, seconds, Outcome.HUNG if seconds > self._usual_time() else Outcome.CANCELLED)

    def _note(self, release: str, seconds: float, outcome: Outcome) -> None:
        now = self._clock()
        with self._lock:
            held = self._releases.get(release)
            if held is None:
                name = release if len(self._releases) < MAX_RELEASES else OTHERS
                held = self._releases.setdefault(name, _Release())
            held.recent.append((now, seconds, outcome))
            held.outcomes[outcome] += 1
            held.seconds += seconds
            for position, bound in enumerate(BOUNDS):
                held.buckets[position] += seconds <= bound
            due = self._file is not None and now - self._written >= WRITE_EVERY
            if due:
                self._written = now
        if due:
            with contextlib.suppress(OSError):  # no request fails for its figures' sake; who reads them sees their age
                self.write()

    def _usual_time(self) -> float:
        """What nine answers in ten take at most, whoever gave them; 0 where nobody has answered lately."""
        now = self._clock()
        if now - self._usual[0] >= WRITE_EVERY:
            recent = self._recent()
            times = sorted(took for entries in recent.values() for took, outcome in entries if outcome is Outcome.OK)
            self._usual = now, times[rank(len(times), USUAL)] if times else 0.0
        return self._usual[1]

    def _recent(self) -> dict[str, list[tuple[float, Outcome]]]:
        since = self._clock() - WINDOW
        with self._lock:
            return {
                name: [(took, outcome) for at, took, outcome in held.recent if at >= since]
                for name, held in self._releases.items()
            }

    def figures(self) -> dict[str, ReleaseFigures]:
        """The last minute by release, as this process has seen it."""
        return {name: _summary(entries) for name, entries in self._recent().items()}

    def json(self) -> bytes:
        """The figures as `rumormill canary run --figures` reads them, of all processes that keep the same file."""
        return msgspec.json.encode(self._whole())

    def write(self) -> None:
        """Replace this process's part, and the file as the sum of all parts. Raises OSError."""
        if self._file is not None:
            self._file.write(self._part())
            self._file.write_sum(self._whole())

    def _whole(self) -> FiguresFile:
        now = self._clock()
        others = self._file.others(self.service, now) if self._file is not None else []
        releases = summed([self._part(), *others]) if others else self.figures()
        return FiguresFile(self.service, now, WINDOW, releases)

    def _part(self) -> Part:
        return Part(self.service, self._clock(), {name: _counts(held) for name, held in self._recent().items()})

    def prometheus(self) -> str:
        """Prometheus text, counted since the start: requests by outcome, and a histogram of their times."""
        lines = [
            "# TYPE rumormill_client_requests_total counter",
            "# TYPE rumormill_client_request_seconds histogram",
        ]
        with self._lock:
            for name, held in sorted(self._releases.items()):
                labels = f'service="{_escaped(self.service)}",release="{_escaped(name)}"'
                requests = held.outcomes.total()
                lines += [
                    f'rumormill_client_requests_total{{{labels},outcome="{outcome.value}"}} {held.outcomes[outcome]}'
                    for outcome in Outcome
                ]
                lines += [
                    f'rumormill_client_request_seconds_bucket{{{labels},le="{bound:g}"}} {count}'
                    for bound, count in zip(BOUNDS, held.buckets, strict=True)
                ]
                lines += [
                    f'rumormill_client_request_seconds_bucket{{{labels},le="+Inf"}} {requests}',
                    f"rumormill_client_request_seconds_sum{{{labels}}} {held.seconds:.6f}",
                    f"rumormill_client_request_seconds_count{{{labels}}} {requests}",
                ]
        # Families together, as the format asks for.
        return "\n".join(sorted(lines, key=lambda line: ("_seconds" in line, not line.startswith("#")))) + "\n"

    def transport(self, inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """A pool's transport that counts what passes through it."""
        return _Counting(self, inner)

    def sync_transport(self, inner: httpx.BaseTransport) -> httpx.BaseTransport:
        """The same for a `SyncPool`."""
        return _SyncCounting(self, inner)

    @contextlib.contextmanager
    def _counted(self, request: httpx.Request) -> Iterator[Callable[[httpx.Response], None]]:
        """Counts what becomes of a request; what is yielded takes its answer."""
        asked: list[Attempt] = []
        request.extensions[ATTEMPTS] = asked
        began = time.perf_counter()
        try:
            yield lambda response: self._answered(response, time.perf_counter() - began)
        except httpx.TransportError as error:
            self._failed(error, time.perf_counter() - began)
            raise
        except Exception:
            raise
        except BaseException:
            # Cancelled or interrupted: those that were being asked have not answered for so long.
            self._given_up(asked, time.perf_counter() - began)
            raise

    def _answered(self, response: httpx.Response, took: float) -> None:
        worker = response.extensions.get("rumormill_worker")
        self._missed(response.extensions.get(ATTEMPTS, ()), worker, took)
        if worker is not None:
            self.note(worker.release, took, failed=response.status_code >= 500)

    def _failed(self, error: httpx.TransportError, took: float) -> None:
        attempts, worker = getattr(error, "attempts", ()), getattr(error, "worker", None)
        self._missed(attempts, None, took)
        if worker is not None and not attempts:
            self.note(worker.release, took, failed=True)

    def _given_up(self, attempts: Sequence[Attempt], waited: float) -> None:
        self._missed([attempt for attempt in attempts if attempt.failure is not None], None, waited)
        for attempt in attempts:
            if attempt.failure is None:
                self.note_cancelled(attempt.worker.release, waited - (attempt.began - attempts[0].began))

    def _missed(self, attempts: Sequence[Attempt], answered: Worker | None, took: float) -> None:
        """Who was asked and did not answer: the caller may never notice, but a gate must."""
        for number, attempt in enumerate(attempts):
            if attempt.worker is answered:
                continue
            if attempt.failure is None:
                if number == 0:  # overtaken, and so at least as slow as the whole request
                    self.note(attempt.worker.release, took, failed=False)
            elif not attempt.failure.refused_here:
                status = attempt.failure.status
                self.note(attempt.worker.release, took, failed=status is None or status >= 500)


_ALL: weakref.WeakSet[Figures] = weakref.WeakSet()


def _after_fork() -> None:
    for figures in _ALL:
        figures._begin()


os.register_at_fork(after_in_child=_after_fork)


class _Counting(httpx.AsyncBaseTransport):
    def __init__(self, figures: Figures, inner: httpx.AsyncBaseTransport) -> None:
        self._figures = figures
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with self._figures._counted(request) as answered:
            response = await self._inner.handle_async_request(request)
        answered(response)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _SyncCounting(httpx.BaseTransport):
    def __init__(self, figures: Figures, inner: httpx.BaseTransport) -> None:
        self._figures = figures
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._figures._counted(request) as answered:
            response = self._inner.handle_request(request)
        answered(response)
        return response

    def close(self) -> None:
        self._inner.close()


def _summary(entries: list[tuple[float, Outcome]]) -> ReleaseFigures:
    counts = _counts(entries)
    times = sorted(took for took, _ in entries)
    p50, p90, p95, p99 = (times[rank(len(times), share)] if times else None for share in SHARES)
    return ReleaseFigures(counts.requests, counts.errors, p50, p90, p95, p99, counts.cancelled)


def _counts(entries: list[tuple[float, Outcome]]) -> Counts:
    errors = sum(outcome.failed for _, outcome in entries)
    cancelled = sum(outcome.cancelled for _, outcome in entries)
    return Counts(len(entries), errors, cancelled, Counter(bucket(took) for took, _ in entries))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
