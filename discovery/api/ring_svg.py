"""A picture of the rings of one service, as SVG: which worker owns which arc, and where a key falls. Pure.

Each candidate release has a circle of its own, the rest the outermost one. An arc has its owner's color; the legend
says how much of each circle each worker owns. Names are untrusted text and are escaped.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final
from xml.sax.saxutils import escape

from rumormill.ring.hash_ring import HashRing, key_position
from rumormill.ring.routing import Routing
from rumormill.ring.traffic_split import Group

CIRCLE: Final = 2**32
SIZE: Final = 640
OUTER: Final = 270.0
BAND: Final = 26.0
GAP: Final = 12.0
MAX_ARCS: Final = 20_000
"""Most arcs drawn on one circle. A larger ring is drawn from every n-th of its points."""
STRAIGHT: Final = CIRCLE // 360
"""Shorter arcs are drawn as lines, a hundredth of a pixel off: renderers draw very short arcs as wedges."""
LEGEND_LINES: Final = 64
LINE: Final = 18


def render_ring(routing: Routing, key: str | None = None) -> str:
    """The picture. With a `key`, it shows where the key falls on its release's ring, and its owner."""
    groups = _groups_with_radius(routing)
    owner = next(routing.walk(key), None) if key is not None else None
    parts = [_arcs(routing.rings[group], radius) for group, radius in groups]
    parts += [_label(_title(routing, group), radius) for group, radius in groups]
    if key is not None and owner is not None:
        chosen = next(routing.groups(key))
        parts.append(_key_marker(key, dict(groups)[chosen], owner.name))
    if not groups:
        parts.append(_text(SIZE / 2, SIZE / 2, "no worker takes new work", anchor="middle"))
    legend = _legend(routing, groups)
    height = max(SIZE, 60 + LINE * len(legend))
    lines = "".join(legend)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE + 360} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13">'
        f"<title>{escape(f'ring of {routing.service}, digest {routing.digest}')}</title>"
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}{lines}</svg>\n'
    )


def _groups_with_radius(routing: Routing) -> list[tuple[Group, float]]:
    """Groups with workers and the radius of each, the rest outermost."""
    present: list[Group] = [None] if None in routing.rings else []
    present += [canary.release for canary in routing.policy.canary if canary.release in routing.rings]
    watchers = (OUTER - 40) / max(len(present), 1)
    step = min(BAND + GAP, watchers)
    return [(group, OUTER - number * step) for number, group in enumerate(present)]


def _title(routing: Routing, group: Group) -> str:
    if not routing.policy.canary:
        return "all releases"
    share = routing.traffic_split.shares[group] / 100
    return f"{'the rest' if group is None else group}: {share:g} % of the keys"


def _arcs(ring: HashRing, radius: float) -> str:
    """One path for each worker, of all its arcs. An arc runs from the preceding point to the worker's own."""
    points = list(ring.points())
    every = -(-len(points) // MAX_ARCS)
    points = points[::every]
    arcs: dict[str, list[str]] = {}
    previous = points[-1][0] - CIRCLE
    for position, name in points:
        arcs.setdefault(name, []).append(_arc(radius, previous, position))
        previous = position
    width = BAND - 2
    return "".join(
        f'<path d="{"".join(path)}" stroke="{color(name)}" stroke-width="{width:g}" fill="none">'
        f"<title>{escape(name)}</title></path>"
        for name, path in sorted(arcs.items())
    )


def _arc(radius: float, begin: int, end: int) -> str:
    (x0, y0), (x1, y1) = _point_on_circle(radius, begin), _point_on_circle(radius, end)
    large = int(end - begin > CIRCLE // 2)
    if end - begin >= CIRCLE:  # one point holds the whole circle, which one arc cannot say
        return _arc(radius, begin, end - CIRCLE // 2) + _arc(radius, end - CIRCLE // 2, end)
    if end - begin < STRAIGHT:
        return f"M{x0:.3f} {y0:.3f}L{x1:.3f} {y1:.3f}"
    return f"M{x0:.3f} {y0:.3f}A{radius:g} {radius:g} 0 {large} 1 {x1:.3f} {y1:.3f}"


def _point_on_circle(radius: float, position: int) -> tuple[float, float]:
    """Clockwise from the top."""
    angle = 2 * math.pi * position / CIRCLE
    return SIZE / 2 + radius * math.sin(angle), SIZE / 2 - radius * math.cos(angle)


def _key_marker(key: str, radius: float, owner: str) -> str:
    position = key_position(key)
    x, y = _point_on_circle(radius + BAND / 2 + 4, position)
    shown = key if len(key) <= 32 else key[:31] + "…"
    return (
        f'<line x1="{SIZE / 2:g}" y1="{SIZE / 2:g}" x2="{x:.2f}" y2="{y:.2f}" stroke="black" stroke-width="1.5"/>'
        f'<circle cx="{SIZE / 2:g}" cy="{SIZE / 2:g}" r="3"/>'
        + _text(
            SIZE / 2, SIZE - 12, f"{shown} is at {position / CIRCLE:.4f} of the circle, and goes to {owner}", "middle"
        )
    )


def _label(text: str, radius: float) -> str:
    return _text(SIZE / 2, SIZE / 2 - radius + 4, text, "middle", halo=True)


def _legend(routing: Routing, groups: list[tuple[Group, float]]) -> list[str]:
    lines = [_text(SIZE, 30, f"{routing.service}, routing digest {routing.digest}")]
    for group, _ in groups:
        for name, share in sorted(routing.rings[group].shares().items(), key=lambda item: (-item[1], item[0])):
            if len(lines) > LEGEND_LINES:
                lines.append(_text(SIZE + 18, 36 + LINE * len(lines), "…"))
                return lines
            worker, y = routing.worker(name), 36 + LINE * len(lines)
            facts = [f"{100 * share:.1f} %", *filter(None, (worker.release, worker.zone and f"zone {worker.zone}"))]
            lines.append(
                f'<rect x="{SIZE}" y="{y - 11}" width="12" height="12" fill="{color(name)}"/>'
                + _text(SIZE + 18, y, f"{name}: {', '.join(facts)}")
            )
    return lines


def _text(x: float, y: float, text: str, anchor: str = "start", *, halo: bool = False) -> str:
    style = ' stroke="white" stroke-width="4" paint-order="stroke"' if halo else ""
    printable = "".join(character if character.isprintable() else "�" for character in text)
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(printable)}</text>'


def color(name: str) -> str:
    """The color of a worker, the same at every sidecar."""
    hue, tone = hashlib.blake2b(name.encode(), digest_size=2).digest()
    return f"hsl({hue * 360 // 256} 62% {42 + tone % 4 * 8}%)"
