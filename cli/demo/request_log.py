"""What became of each request, and the figures made of it. Pure: times come with the outcomes, in seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """One request from the moment it was handed to the client library to the moment its answer was there."""

    begun: float
    ended: float
    worker: str | None
    """Who answered, as the answer says; None where there was none, or it does not say."""
    trouble: str | None = None
    """Why there was no answer, in the caller's words."""
    wrong: str | None = None
    """What is wrong with the answer there was."""
    late: float = 0.0
    """Seconds the caller itself began after its schedule: what this machine, and not the pool, was slow at."""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """Of a number of requests. Seconds; 0.0 where there were none."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    p50: float = 0.0
    p99: float = 0.0
    slowest: float = 0.0
    late: float = 0.0
    """The longest that the caller itself was late to begin."""
    troubles: tuple[tuple[str, int], ...] = ()
    """What went wrong and how often, the most frequent first; five at most."""


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """A slice of the time line."""

    requests: int
    failed: int
    slowest: float


def figures(outcomes: Iterable[RequestOutcome]) -> RequestSummary:
    """Latencies are of answered requests and failed ones alike: waiting for an error is waiting."""
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
    """Seconds by which the caller was late, at the most, to begin a request while the slowest one was under way: it may
    have been as late to take that one's answer."""
    taken = list(outcomes)
    if not taken:
        return 0.0
    slowest = max(taken, key=lambda outcome: outcome.seconds)
    return max(o.late for o in taken if slowest.begun <= o.begun <= slowest.ended)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that so large a share of them does not exceed. Of nothing: 0.0."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class RequestLog:
    """Every outcome of a run, in the order they ended."""

    def __init__(self) -> None:
        self.outcomes: list[RequestOutcome] = []

    def add(self, outcome: RequestOutcome) -> None:
        self.outcomes.append(outcome)

    def ended_since(self, begin: float, end: float = math.inf) -> list[RequestOutcome]:
        """Those that ended in that time: a request in flight when a worker dies belongs to the death."""
        return [outcome for outcome in self.outcomes if begin <= outcome.ended < end]

    def recent(self, now: float, seconds: float) -> list[RequestOutcome]:
        """Those of the last seconds, found from the end: cheap however long the run."""
        found = []
        for outcome in reversed(self.outcomes):
            if outcome.ended < now - seconds:
                break
            found.append(outcome)
        return found

    def line(self, begin: float, end: float, width: float) -> list[TimeBucket]:
        """The time line from begin to end, in slices of so many seconds; the last may be young."""
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
    """Whose answers these are, as parts of one."""
    counted = Counter(outcome.worker for outcome in outcomes if outcome.worker is not None)
    total = counted.total()
    return {worker: count / total for worker, count in sorted(counted.items())}
