"""The crash scenarios as one SVG: a row per system, mode and size; a dot per kill; a bar at the median."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape

from bench.peers.report import Result
from bench.peers.scenarios import MODES

COLORS = {"rumormill": "#2563eb", "memberlist": "#d97706", "kinship": "#059669"}
WIDTH, LEFT, RIGHT, TOP, ROW = 860, 190, 24, 84, 20
TICKS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0)
FLOOR = (0.4, 0.6)
"""Seconds: the range of three missed heartbeats of 200 ms."""
STYLE = "text{font:12px system-ui,sans-serif;fill:#334155}.h{font-weight:600}.r{text-anchor:end}.m{text-anchor:middle}"


class Scale:
    """Maps seconds to positions on the logarithmic x axis."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min([0.3, *values]) * 0.8, max([1.0, *values]) * 1.15
        self._low, self._span = math.log(low), math.log(high) - math.log(low)
        self.ticks = [tick for tick in TICKS if low <= tick <= high]

    def __call__(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(seconds) - self._low) / self._span


def detection_plot(results: Sequence[Result]) -> str:
    """The plot of the results whose names begin with ``crash``, or a note if there are none."""
    groups = [(result, mode) for result in results if result.scenario.startswith("crash-") for mode in MODES]
    rows = [(r, mode, name) for r, mode in groups for name, each in r.systems.items() if each.samples.get(mode)]
    x = Scale([value for r, mode, name in rows for value in r.systems[name].samples[mode]])
    parts: list[str] = []
    y, last = TOP, None
    for result, mode, name in rows:
        if (result, mode) != last:
            y += 26 if last else 6
            size = result.scenario.removeprefix("crash-")
            parts.append(f'<text x="8" y="{y + 4}" class="h">N = {size}, {escape(mode.removesuffix(", all"))}</text>')
            y += ROW
            last = (result, mode)
        parts += _dots(name, result.systems[name].samples[mode], x, y)
        y += ROW
    height = y + 44
    return _page(height, [_frame(x, y), *parts], "nothing measured yet" if not rows else "")


def _dots(name: str, samples: Sequence[float], x: Scale, y: float) -> list[str]:
    color = COLORS.get(name, "#475569")
    median = statistics.median(samples)
    label_text = f"{name}: {median * 1000:.0f} ms"
    dots = [
        f'<circle cx="{x(value):.1f}" cy="{y + (number % 3 - 1) * 3}" r="3" fill="{color}" fill-opacity=".55"/>'
        for number, value in enumerate(samples)
    ]
    bar = f'<rect x="{x(median) - 1:.1f}" y="{y - 8}" width="2.5" height="16" fill="{color}"/>'
    return [f'<text x="{LEFT - 10}" y="{y + 4}" class="r">{escape(label_text)}</text>', *dots, bar]


def _frame(x: Scale, bottom: float) -> str:
    begin, end = (x(mark) for mark in FLOOR)
    parts = [
        '<text x="8" y="22" class="h" style="font-size:15px">SIGKILL until the last survivor knows</text>',
        '<text x="8" y="42">200 ms period throughout; one dot per kill; bar and figure show the median</text>',
        f'<rect x="{begin:.1f}" y="{TOP - 8}" width="{end - begin:.1f}" height="{bottom - TOP}" fill="#e0e7ff"/>',
        f'<text x="{(begin + end) / 2:.1f}" y="{TOP - 14}" class="m">three misses</text>',
    ]
    for tick in x.ticks:
        position = f"{x(tick):.1f}"
        parts.append(f'<line x1="{position}" x2="{position}" y1="{TOP - 8}" y2="{bottom - 8}" stroke="#cbd5e1"/>')
        label = f"{tick * 1000:g} ms" if tick < 1 else f"{tick:g} s"
        parts.append(f'<text x="{position}" y="{bottom + 10}" class="m">{label}</text>')
    return "".join(parts)


def _page(height: float, parts: Sequence[str], note: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img"><title>Crash detection</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}'
        + (f'<text x="8" y="{TOP + 20}">{note}</text>' if note else "")
        + "</svg>\n"
    )
