"""What the sidecar knows of one kind of inference engine, as data."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ProbeKind(enum.Enum):
    """Which deep probe suits an engine. The names are those of the ``probe`` setting."""

    NONE = "none"
    COMPLETIONS = "completions"
    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    KSERVE = "kserve"


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """One series of a Prometheus page. The values of all its lines are summed: an engine with several ranks or models
    gives a line for each."""

    name: str
    """As it stands at the start of a line; for a histogram with its ``_count`` or ``_sum``."""
    labels: tuple[tuple[str, str], ...] = ()
    """A line counts only if it has these labels with these values."""

    def __str__(self) -> str:
        inner = ",".join(f'{key}="{value}"' for key, value in self.labels)
        return f"{self.name}{{{inner}}}" if inner else self.name


Alternatives = tuple[tuple[MetricSeries, ...], ...]
"""Ways to read one figure, from the newest name to the oldest. The first way of which any series is there is taken, and
its series are summed. Never the sum of two ways: an engine that gives both names gives one figure twice."""


def series(*names: str) -> Alternatives:
    """Each name is another way to read the figure."""
    return tuple((MetricSeries(name),) for name in names)


def labelled(name: str, **labels: str) -> Alternatives:
    """One way: the lines of this series with these labels."""
    return ((MetricSeries(name, tuple(labels.items())),),)


def summed(*names: str) -> Alternatives:
    """One way: all of these series together."""
    return (tuple(MetricSeries(name) for name in names),)


@dataclass(frozen=True, slots=True)
class PrometheusCounters:
    """Where an engine's Prometheus page has its figures."""

    running: Alternatives
    """Requests that the engine works on."""
    waiting: Alternatives
    """Requests that it has accepted and not begun."""
    cache_use: Alternatives
    """Part of its key-value cache in use, 0 to 1; the mean where several lines give it."""
    progress: Alternatives
    """What grows while the engine makes progress. Within a long request too, if the engine has such a figure."""
    progress_unit: str
    """What one step of progress is, for the sentence "no token was produced for 5.0 s"."""
    awake: Alternatives = ()
    """1 while the engine takes requests, and 0 while it was put to sleep, if it can be."""
    capacity: Alternatives = ()
    """Requests that it can work on at once, if it says so there."""
    path: str = "/metrics"
    port: int | None = None
    """Another port of the worker's host; None for the worker's own."""


@dataclass(frozen=True, slots=True)
class CapacityPage:
    """A page of JSON, in which a key at the top says how many requests the engine can work on at once."""

    path: str
    key: str


@dataclass(frozen=True, slots=True)
class OllamaCounters:
    """Ollama has no Prometheus page. Its list of loaded models says until when each stays loaded, and that moves
    whenever a request ends."""

    progress_unit: str = "request ended"
    path: str = "/api/ps"
    port: int | None = None


Counters = PrometheusCounters | OllamaCounters


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """One engine. Everything here can be overridden by a setting; nothing here is decided at run time."""

    name: str
    """The value of ``--engine``."""
    title: str
    """As people write it."""
    readiness_path: str
    """The path that answers 2xx once the model is loaded."""
    readiness_timeout: float = 3.0
    """Seconds that a healthy worker may take to answer it, under load too."""
    busy_statuses: frozenset[int] = frozenset()
    """Statuses of the readiness path that may only mean that the engine is busy. They count as silence does."""
    counters: Counters | None = None
    """None if the engine publishes no figures."""
    probe: ProbeKind = ProbeKind.NONE
    """The deep probe, if no other is set."""
    capacity: int | None = None
    """Requests that it works on at once by its own default; None if that depends on the model or the machine."""
    capacity_page: CapacityPage | None = None
    """Where it says what its capacity is. Asked once, when its counters are first read."""
    drained: str
    """When nothing is under way any more, and what its own SIGTERM does to requests. For people."""
    lies: tuple[str, ...]
    """What it is known to say wrongly of itself. For people."""
