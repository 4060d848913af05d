"""One self-contained page about a run: the verdict, latency and failures over time, and what each fault did. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rumormill.cli.chaos.objectives import ChaosVerdict, FaultSummary, FaultTimes
from rumormill.cli.demo.request_log import RequestOutcome, percentile, summarize
from rumormill.cli.demo.verdict import duration
from rumormill.simulations.html_page import html_page, html_table
from rumormill.simulations.plots import Band, Point, distribution, line_chart

SLICES = 240
LEAST_SLICE = 0.25
"""Seconds. A slice holds all requests that ended in it."""
MILLISECOND = 0.001


def render_chaos_page(verdict: ChaosVerdict, outcomes: Sequence[RequestOutcome], begun: float) -> str:
    """``begun`` is the start of the run, on the clock of the outcomes."""
    end = max((outcome.ended for outcome in outcomes), default=begun)
    bands = [_band(fault.times, begun, end) for fault in verdict.faults]
    slices = _slices(outcomes, begun, end)
    sections = [
        ("Objectives", _objectives(verdict)),
        ("Latency over time", _latency(slices, bands)),
        ("Requests over time", _requests(slices, bands)),
        ("Latency before, during and after faults", _distributions(verdict.faults, outcomes)),
        ("Faults", _faults(verdict.faults)),
        ("What went wrong", _troubles(verdict)),
    ]
    return html_page("rumormill: chaos", verdict.sentence, sections)


def _band(fault: FaultTimes, begun: float, end: float) -> Band:
    return fault.begun - begun, (fault.undone if fault.undone is not None else end) - begun, fault.title


def _slices(
    outcomes: Sequence[RequestOutcome], begun: float, end: float
) -> list[tuple[float, float, list[RequestOutcome]]]:
    """Middle and width, in seconds, and the requests of each stretch in which any ended."""
    width = max(LEAST_SLICE, (end - begun) / SLICES)
    found: dict[int, list[RequestOutcome]] = {}
    for outcome in outcomes:
        found.setdefault(max(0, int((outcome.ended - begun) / width)), []).append(outcome)
    return [((place + 0.5) * width, width, found[place]) for place in sorted(found)]


def _objectives(verdict: ChaosVerdict) -> str:
    rows = [(o.claim, [o.bound, o.found, "met" if o.met else "MISSED", o.evidence]) for o in verdict.objectives]
    return html_table(["", "objective", "measured", "", "based on"], rows, kind="objectives")


def _latency(slices: Sequence[tuple[float, float, list[RequestOutcome]]], bands: Sequence[Band]) -> str:
    series: dict[str, list[Point]] = {"median": [], "99 %": [], "slowest": []}
    for middle, _, requests in slices:
        times = sorted(max(MILLISECOND, outcome.seconds) * 1000 for outcome in requests)
        for line, share in zip(series.values(), (0.5, 0.99, 1.0), strict=True):
            line.append((middle, percentile(times, share)))
    note = "<p class='n'>A band is a fault, from its begin until it was undone.</p>"
    return note + line_chart(series, "seconds", "ms, log scale", log_y=True, dots=False, bands=bands)


def _requests(slices: Sequence[tuple[float, float, list[RequestOutcome]]], bands: Sequence[Band]) -> str:
    series: dict[str, list[Point]] = {"answered rightly": [], "failed or wrong": []}
    for middle, width, requests in slices:
        f = summarize(requests)
        bad = f.failed + f.wrong
        series["answered rightly"].append((middle, (f.requests - bad) / width))
        series["failed or wrong"].append((middle, bad / width))
    return line_chart(series, "seconds", "requests/s", dots=False, bands=bands)


def _distributions(faults: Sequence[FaultSummary], outcomes: Sequence[RequestOutcome]) -> str | None:
    """Every request is in one of two lines: in flight during a fault, or not."""
    spans = [(fault.times.begun, fault.times.undone or float("inf")) for fault in faults]
    series: dict[str, list[float]] = {"no fault": [], "during a fault": []}
    for outcome in outcomes:
        inside = any(outcome.begun < undone and outcome.ended >= begun for begun, undone in spans)
        series["during a fault" if inside else "no fault"].append(max(MILLISECOND, outcome.seconds) * 1000)
    filled = {name: values for name, values in series.items() if values}
    return (
        distribution(filled, "milliseconds, log scale", log_x=True, y_label="share of requests, %") if filled else None
    )


def _faults(faults: Sequence[FaultSummary]) -> str | None:
    rows = []
    for fault in faults:
        times = fault.times
        cells = [str(times.left), _after(times.evicted, times.begun), duration(fault.recovery), str(fault.bad)]
        cells += ["not seen" if fault.rejoin is None else duration(fault.rejoin)]
        cells += [duration(f.p99) if f.requests else "" for f in (fault.before, fault.during, fault.after)]
        rows.append((times.title, [*cells, str(fault.during.failed + fault.after.failed)]))
    heads = ["fault", "workers left", "evicted after", "recovery", "bad requests", "works again after"]
    heads += ["p99 before", "during", "after", "failed"]
    note = (
        "<p class='n'>Recovery: from the fault to the last bad request, that is one that failed, was wrong or slower "
        "than the latency objective. Works again: from the fault's end until every sidecar sends it work.</p>"
    )
    return note + html_table(heads, rows) if rows else None


def _after(moment: float | None, begun: float) -> str:
    return "" if moment is None else duration(moment - begun)


def _troubles(verdict: ChaosVerdict) -> str | None:
    lines = [f"<li>{times} × {escape(text)}</li>" for text, times in verdict.whole.troubles]
    return f"<ul>{''.join(lines)}</ul>" if lines else None
