"""Reads an engine's figures from its Prometheus page.

An engine's page has hundreds of lines, of which a handful matter, and it is read several times a second. So the lines
of the wanted series are picked out first, and only they are parsed. Their names and labels, which take nine tenths of
that, stay the same from page to page, and are remembered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rumormill.sidecar.counters.reading import BadCounters, CounterReading
from rumormill.sidecar.engines import Alternatives, MetricSeries, PrometheusCounters

MAX_LINES = 4096
"""Mentions of the wanted series. An engine has a line for each model and each rank, and two of comment."""
MAX_SERIES = 256
"""Remembered series. An engine has a few for each model."""
MAX_FIGURE = 1e15
"""Larger figures are nonsense. Below it, a float counts by ones."""


def read_prometheus_untrusted(page: bytes, counters: PrometheusCounters) -> CounterReading:
    """The figures on this page. Raises :class:`BadCounters`."""
    samples = _parse(_wanted_lines(page, counters))
    use = _figure(samples, counters.cache_use, mean=True)
    return CounterReading(
        running=_count(_figure(samples, counters.running)),
        waiting=_count(_figure(samples, counters.waiting)),
        cache_use=None if use is None else min(max(use, 0.0), 1.0),
        capacity=_count(_figure(samples, counters.capacity)) or None,
        asleep=_figure(samples, counters.awake) == 0,
        progress=_figure(samples, counters.progress),
    )


@functools.cache
def _wanted_names(counters: PrometheusCounters) -> tuple[bytes, ...]:
    names = {
        one.name
        for alternatives in (
            counters.running,
            counters.waiting,
            counters.cache_use,
            counters.capacity,
            counters.awake,
            counters.progress,
        )
        for way in alternatives
        for one in way
    }
    return tuple(name.encode() for name in sorted(names))


def _wanted_lines(page: bytes, counters: PrometheusCounters) -> list[bytes]:
    """The lines of these series. Searching for a name is ten times faster than matching each line."""
    lines: list[bytes] = []
    found = 0
    for name in _wanted_names(counters):
        begin = page.find(name)
        while begin >= 0:
            found += 1
            if found > MAX_LINES:
                raise BadCounters(f"its counters are named more than {MAX_LINES} times")
            after = begin + len(name)
            if page[begin - 1 : begin] in (b"", b"\n") and page[after : after + 1] in (b" ", b"\t", b"{"):
                end = page.find(b"\n", after)
                lines.append(page[begin:] if end < 0 else page[begin:end])
            begin = page.find(name, after)
    return lines


def _parse(lines: Iterable[bytes]) -> list[Sample]:
    try:
        return [sample for line in lines for sample in _samples(line)]
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise BadCounters(f"its counters cannot be parsed: {str(error)[:100]}") from None


def _samples(line: bytes) -> list[Sample]:
    series, *value = line.rsplit(maxsplit=1)
    if not value or b"}" in value[0] or (known := _series(series)) is None:
        return _parse_text(line)
    return [known._replace(value=float(value[0]))]


@functools.lru_cache(MAX_SERIES)
def _series(text: bytes) -> Sample | None:
    """The series that a line begins with, without its value; None if more follows than a value, as a timestamp."""
    samples = _parse_text(text + b" 0")
    return samples[0] if len(samples) == 1 and samples[0].timestamp is None else None


def _parse_text(text: bytes) -> list[Sample]:
    families = text_string_to_metric_families(text.decode() + "\n")
    return [sample for family in families for sample in family.samples]


def _figure(samples: list[Sample], alternatives: Alternatives, *, mean: bool = False) -> float | None:
    for way in alternatives:
        values = [sample.value for sample in samples if any(_is_of(sample, one) for one in way)]
        if values:
            if not all(math.isfinite(value) and abs(value) < MAX_FIGURE for value in values):
                raise BadCounters(f"{way[0]} is not a number")
            return sum(values) / len(values) if mean else sum(values)
    return None


def _is_of(sample: Sample, wanted: MetricSeries) -> bool:
    return sample.name == wanted.name and all(sample.labels.get(key) == value for key, value in wanted.labels)


def _count(value: float | None) -> int | None:
    return None if value is None else max(round(value), 0)
