"""Figures to JSON and back, and to a table that says which bounds hold."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bench.peers.scenarios import GROWTH, MODES, Bound, PeerScenario
from bench.peers.testbed import OURS, Measurements


class PeerFigures(msgspec.Struct):
    """One system's figures in one scenario. Samples are in seconds."""

    version: str
    samples: dict[str, list[float]]
    numbers: dict[str, float]


class BoundResult(msgspec.Struct):
    """One bound and its figure."""

    what: str
    statistic: str
    at_most: float
    figure: float | None

    @property
    def met(self) -> bool:
        return self.figure is not None and self.figure <= self.at_most


class Result(msgspec.Struct):
    """All results of one run of one scenario: the content of its file."""

    scenario: str
    about: str
    at: str
    machine: str
    brief: bool
    systems: dict[str, PeerFigures]
    verdicts: list[BoundResult]


def result_of(
    scenario: PeerScenario,
    measurements: dict[str, Measurements],
    versions: dict[str, str],
    machine: str,
    at: datetime.datetime,
    brief: bool,
) -> Result:
    own = measurements.get(OURS)
    return Result(
        scenario=scenario.name,
        about=scenario.about,
        at=at.isoformat(timespec="seconds"),
        machine=machine,
        brief=brief,
        systems={
            name: PeerFigures(
                versions[name], {k: [round(v, 6) for v in vs] for k, vs in measured.samples.items()}, measured.numbers
            )
            for name, measured in measurements.items()
        },
        verdicts=[_verdict(bound, own) for bound in scenario.bounds] if own else [],
    )


def _verdict(bound: Bound, measured: Measurements) -> BoundResult:
    return BoundResult(bound.what, bound.statistic, bound.at_most, bound.figure(measured))


def read_results(folder: Path, names: Iterable[str]) -> list[Result]:
    """The results of the scenarios that have files, in this order."""
    files = [folder / f"{name}.json" for name in names]
    return [msgspec.json.decode(file.read_bytes(), type=Result) for file in files if file.exists()]


def table(results: Sequence[Result]) -> str:
    """One table per scenario: a row per figure, a column per system, then the bounds."""
    return "\n".join(_table(result) for result in results)


def comparisons(results: Sequence[Result]) -> str:
    """Comparisons of two figures: growth with pool size, and each peer relative to rumormill in the same run."""
    by_name = {result.scenario: result for result in results}
    lines = []
    for growth in GROWTH:
        pair = [_typical(by_name.get(name), OURS, growth.what) for name in (growth.larger, growth.smaller)]
        if pair[0] and pair[1]:
            ratio = pair[0] / pair[1]
            word = "met" if ratio <= growth.at_most else "MISSED"
            comparison = f"{growth.what}: {growth.larger} compared with {growth.smaller}"
            lines.append(f"- {word}: {comparison} at most {growth.at_most:g} times: {ratio:.2f}")
    for result in results:
        for peer in result.systems.keys() - {OURS}:
            for mode in MODES:
                pair = [_typical(result, name, mode) for name in (peer, OURS)]
                if pair[0] and pair[1]:
                    lines.append(f"- {result.scenario}, {mode}: {peer} took {pair[0] / pair[1]:.2f} times as long")
    return "\n".join(["### Comparisons", "", *sorted(lines), ""]) if lines else ""


def _typical(result: Result | None, system: str, what: str) -> float | None:
    """The median of the samples, or the number."""
    figures = result.systems.get(system) if result else None
    if figures is None:
        return None
    samples = figures.samples.get(what)
    return statistics.median(samples) if samples else figures.numbers.get(what)


def _table(result: Result) -> str:
    figures = result.systems.values()
    samples = list(dict.fromkeys(what for each in figures for what in each.samples if each.samples[what]))
    numbers = list(dict.fromkeys(what for each in figures for what in each.numbers))
    names = [f"{name} {each.version}" for name, each in result.systems.items()]
    brief = " (brief: not a measurement)" if result.brief else ""
    lines = [f"### {result.scenario}: {result.about}{brief}", "", *_row(["", *names]), "|---" * (len(names) + 1) + "|"]
    for what in samples:
        lines += _row([f"{what}, ms", *(_broadcast(each.samples.get(what, [])) for each in figures)])
    for what in numbers:
        lines += _row([what, *(_number(each.numbers.get(what)) for each in figures)])
    lines += [""] + [_bound_line(verdict) for verdict in result.verdicts]
    return "\n".join([*lines, ""])


def _row(cells: Iterable[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _broadcast(samples: Sequence[float]) -> str:
    """Min / median / max in milliseconds, and the number of samples."""
    if not samples:
        return "–"
    marks = (min(samples), statistics.median(samples), max(samples))
    return " / ".join(f"{mark * 1000:.{1 if max(samples) < 0.1 else 0}f}" for mark in marks) + f" ({len(samples)})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _bound_line(verdict: BoundResult) -> str:
    """A bound, and whether it holds."""
    scale, unit = (1, "") if verdict.statistic == "number" else (1000, " ms")
    statistic = "" if verdict.statistic == "number" else f", {verdict.statistic}"
    found = "not measured" if verdict.figure is None else f"{verdict.figure * scale:.4g}{unit}"
    word = "met" if verdict.met else "MISSED"
    return f"- {word}: {verdict.what}{statistic} at most {verdict.at_most * scale:g}{unit}: {found}"
