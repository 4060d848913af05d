"""The outcome of each request, and summaries of them. Pure: times come with the outcomes, in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """One request, from handing it to the client library to its answer."""

    begun: float
    ended: float
    worker: str | None
    """The worker that answered; None without an answer, or if the answer names none."""
    trouble: str | None = None
    """Why there was no answer."""
    wrong: str | None = None
    """What is wrong with the answer."""
    late: float = 0.0
    """Seconds by which the caller itself was late. The machine causes this delay, and not the pool."""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """A summary of requests. Times are in seconds, and 0.0 without requests."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    p50: float = 0.0
    p99: float = 0.0
    slowest: float = 0.0
    late: float = 0.0
    """The longest delay of the caller itself."""
    troubles: tuple[tuple[str, int], ...] = ()
    """What went wrong and how often: at most five, the most frequent first."""


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """A slice of the time line."""

    requests: int
    failed: int
    slowest: float


def summarize(outcomes: Iterable[RequestOutcome]) -> RequestSummary:
    """Latencies include failed requests: waiting for an error is waiting too."""
    taken = list(outcomes)
    if not taken:
        return RequestSummary()
    latencies = sorted(outcome.seconds for outcome in taken)
    troubles = Counter(outcome.trouble or outcome.wrong or "" for outcome in taken)
    del troubles[""]
    return RequestSummary(
        requests=len(taken),
        failed=sum(outcome.trouble is not None for outcome in taken),
        wrong=sum(outcome.wrong is not None for outcome in taken),
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        slowest=latencies[-1],
        late=max(outcome.late for outcome in taken),
        troubles=tuple(troubles.most_common(5)),
    )


def slowest_late(outcomes: Iterable[RequestOutcome]) -> float:
    """The longest delay, in seconds, of the caller itself while the slowest request was in flight. The caller may have
    been that late to read its answer."""
    taken = list(outcomes)
    if not taken:
        return 0.0
    slowest = max(taken, key=lambda outcome: outcome.seconds)
    return max(o.late for o in taken if slowest.begun <= o.begun <= slowest.ended)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The percentile by nearest rank: the smallest value that at least this share of values does not exceed. 0.0 for no
    values."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class RequestLog:
    """Every outcome of a run, in the order they ended."""

    def __init__(self) -> None:
        self.outcomes: list[RequestOutcome] = []
        self.cuts: list[float] = []
        """When an answer was cut after its first byte; its caller asked again."""

    def add(self, outcome: RequestOutcome) -> None:
        self.outcomes.append(outcome)

    def ended_since(self, begin: float, end: float = math.inf) -> list[RequestOutcome]:
        """The outcomes that ended in this time. So a request in flight at a worker's death counts for the death."""
        return [outcome for outcome in self.outcomes if begin <= outcome.ended < end]

    def recent(self, now: float, seconds: float) -> list[RequestOutcome]:
        """The outcomes of the last seconds. The search goes backward, so it is cheap for long runs too."""
        found = []
        for outcome in reversed(self.outcomes):
            if outcome.ended < now - seconds:
                break
            found.append(outcome)
        return found

    def time_line(self, begin: float, end: float, width: float) -> list[TimeBucket]:
        """The time from begin to end, in slices of ``width`` seconds; the last may be incomplete."""
        count = max(0, math.ceil((end - begin) / width))
        slices: list[list[RequestOutcome]] = [[] for _ in range(count)]
        for outcome in self.outcomes:
            place = math.floor((outcome.ended - begin) / width)
            if 0 <= place < count:
                slices[place].append(outcome)
        return [
            TimeBucket(len(s), sum(o.trouble is not None or o.wrong is not None for o in s), _slowest(s))
            for s in slices
        ]


def _slowest(outcomes: Sequence[RequestOutcome]) -> float:
    return max((outcome.seconds for outcome in outcomes), default=0.0)


def shares(outcomes: Sequence[RequestOutcome]) -> dict[str, float]:
    """The share of the answers of each worker, as fractions of 1."""
    counted = Counter(outcome.worker for outcome in outcomes if outcome.worker is not None)
    total = counted.total()
    return {worker: count / total for worker, count in sorted(counted.items())}
