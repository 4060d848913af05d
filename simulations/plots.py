"""Charts as inline SVG: lines, distributions, timelines. Pure functions from numbers to text, without scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from types import MappingProxyType

from rumormill.simulations.timeline import Timeline

Point = tuple[float, float]
Band = tuple[float, float, str]
"""Begin, end, and a name that shows under the pointer."""
WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#475569", "#b45309")

STATES = {
    ".": ("#86c7a3", "holds exactly the running members alive"),
    "g": ("#fbbf24", "holds a dead member alive"),
    "s": ("#fde68a", "suspects a member"),
    "i": ("#93c5fd", "isolated: freezes its view, evicts no one"),
    "x": ("#ef4444", "lacks a member: frozen, cut off, not yet known, or falsely evicted"),
    "z": ("#94a3b8", "frozen"),
    "-": ("#e2e8f0", "not running"),
}


class Axis:
    """Maps values to one side of a chart. ``log`` needs values above zero."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = True):
        self.log = log
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if log:
            self.low, self.high = math.log10(low), math.log10(high)
        else:
            self.low, self.high = (min(0.0, low) if zero else low), high
        if self.high <= self.low:
            self.high = self.low + 1
        self._start, self._span = start, end - start

    def position(self, value: float) -> float:
        scaled = math.log10(value) if self.log else value
        return round(self._start + self._span * (scaled - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[float]:
        """Round numbers along the axis."""
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            marks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
            return [mark for mark in marks if self.low - 1e-9 <= math.log10(mark) <= self.high + 1e-9]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next((f for f in (1, 2, 5) if (self.high - self.low) / (step * f) <= 7), 10)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    dots: bool = True,
    bands: Sequence[Band] = (),
) -> str:
    """One line per series, with a legend. Points are in order of x. ``log_x`` and ``log_y`` need values above zero.

    ``bands`` are shaded stretches of x.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p>No data.</p>"
    x = Axis([p[0] for p in points], _LEFT, WIDTH - _RIGHT, log=log_x, zero=not log_x)
    y = Axis([p[1] for p in points], HEIGHT - _BOTTOM, _TOP, log=log_y)
    parts = [*(_band(x, band) for band in bands), _frame(x, y, x_label, y_label)]
    for (name, line), color in zip(series.items(), COLORS * 9, strict=False):
        positions = [(x.position(a), y.position(b)) for a, b in line]
        path = " ".join(f"{a},{b}" for a, b in positions)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        if dots:
            parts += [
                f'<circle cx="{a}" cy="{b}" r="3" fill="{color}"><title>{escape(name)}: {_text(p[0])}, {_text(p[1])}'
                f"</title></circle>"
                for (a, b), p in zip(positions, line, strict=True)
            ]
    return f"{_legend(series)}{_svg(parts, f'{y_label} by {x_label}')}"


def distribution(
    series: Mapping[str, Sequence[float]],
    x_label: str,
    *,
    missing: Mapping[str, int] = MappingProxyType({}),
    log_x: bool = False,
    y_label: str = "share of survivors, %",
) -> str:
    """Cumulative distributions. ``log_x`` needs values above zero.

    ``missing``: the number of values a series lacks. Its line ends below 100 % accordingly.
    """
    lines: dict[str, list[Point]] = {}
    for name, values in series.items():
        ordered = sorted(values)
        last, total = len(ordered) - 1, len(ordered) + missing.get(name, 0)
        keep = max(1, len(ordered) // 400)
        points: list[Point] = []
        below = 0.0
        for n, value in enumerate(ordered):
            if n % keep == 0 or n == last:
                points += [(value, below), (value, below := 100 * (n + 1) / total)]
        lines[name] = points
    return line_chart(lines, x_label, y_label, log_x=log_x, dots=False)


def timeline_chart(timeline: Timeline) -> str:
    """One row per member, one color per state."""
    cell = 12
    steps = max(map(len, timeline.rows), default=1)
    scale = (WIDTH - _LEFT - _RIGHT) / steps
    parts = []
    for number, (member, row) in enumerate(zip(timeline.members, timeline.rows, strict=True)):
        top = _TOP + number * cell
        parts.append(f'<text x="{_LEFT - 6}" y="{top + cell - 3}" class="t r">{escape(member)}</text>')
        at = 0
        for state, run in groupby(row):
            length = len(list(run))
            parts.append(
                f'<rect x="{_LEFT + at * scale:.1f}" y="{top}" width="{length * scale:.2f}" height="{cell - 1}" '
                f'fill="{STATES[state][0]}"/>'
            )
            at += length
    bottom = _TOP + len(timeline.rows) * cell
    axis = Axis([0, steps * timeline.step], _LEFT, WIDTH - _RIGHT)
    parts += [f'<text x="{axis.position(t)}" y="{bottom + 14}" class="t m">{_text(t)} s</text>' for t in axis.ticks()]
    seen = set("".join(timeline.rows))
    legend = "".join(
        f'<span class="k"><i style="background:{color}"></i>{escape(meaning)}</span>'
        for state, (color, meaning) in STATES.items()
        if state in seen
    )
    return f'<p class="legend">{legend}</p>{_svg(parts, "the state of each member over time", bottom + 22)}'


def _band(x: Axis, band: Band) -> str:
    begin, end, name = band
    left, right = x.position(begin), x.position(end)
    box = f'x="{left}" y="{_TOP}" width="{max(1.0, right - left):.1f}" height="{HEIGHT - _BOTTOM - _TOP}"'
    return f'<rect {box} fill="#f59e0b" fill-opacity=".3"><title>{escape(name)}</title></rect>'


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = [f'<line x1="{_LEFT}" y1="{bottom}" x2="{WIDTH - _RIGHT}" y2="{bottom}" class="a"/>']
    parts += [f'<text x="{x.position(tick)}" y="{bottom + 16}" class="t m">{_text(tick)}</text>' for tick in x.ticks()]
    for tick in y.ticks():
        position = y.position(tick)
        parts.append(f'<line x1="{_LEFT}" y1="{position}" x2="{WIDTH - _RIGHT}" y2="{position}" class="g"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{position + 4}" class="t r">{_text(tick)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" class="t m">{escape(x_label)}</text>')
    parts.append(
        f'<text x="14" y="{bottom / 2}" class="t m" transform="rotate(-90 14 {bottom / 2})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _legend(series: Mapping[str, object]) -> str:
    keys = (
        f'<span class="k"><i style="background:{color}"></i>{escape(name)}</span>'
        for name, color in zip(series, COLORS * 9, strict=False)
    )
    return f'<p class="legend">{"".join(keys)}</p>'


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT) -> str:
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}"'
    return f'<div class="p"><svg {box}>{"".join(parts)}</svg></div>'


def _text(value: float) -> str:
    return f"{value / 1000:.6g}k" if value >= 10_000 else f"{value:.6g}"
