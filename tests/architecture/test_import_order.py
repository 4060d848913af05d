"""Inside a room imports go one way too: no circle of modules, and an order of the sub-rooms.

Imports for type checking count as well. ``python tests/architecture/test_import_order.py`` draws the order: a module
stands one line below everything that it imports.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("membership", "ring", "gossip", "recording", "discovery", "client", "sidecar", "simulations", "worker", "cli")

MAY_IMPORT: dict[str, dict[str, set[str]]] = {
    "discovery": {
        "schema": set(),
        "http": set(),
        "commands": {"schema", "activity"},
        "workers": set(),
        "activity": {"schema"},
        "headroom": {"schema"},
        "service_view": {"schema", "http", "workers", "headroom"},
        "view": {"schema", "http", "workers", "headroom", "service_view"},
        "formats": {"http", "workers", "view", "service_view"},
        "api": {"schema", "http", "commands", "workers", "activity", "view", "service_view", "formats"},
        "listeners": {"http", "view", "service_view", "formats"},
        "server": {"schema", "http", "commands", "activity", "view", "service_view", "formats", "api"},
    },
    "client": {
        "runtime": set(),
        "rules": {"runtime"},
        "discovery": {"runtime"},
        "keys": set(),
        "options": {"rules"},
        "errors": {"rules", "discovery"},
        "selection": {"rules", "discovery"},
        "observability": {"rules", "discovery", "selection"},
        "connections": {"runtime", "rules", "discovery", "selection", "observability", "errors"},
        "requests": {"runtime", "rules", "discovery", "selection", "observability", "connections", "errors"},
        "transports": {"rules", "keys", "errors"},
        "base_pool": {"discovery", "observability", "options", "requests", "selection", "transports"},
        "legacy_httpx": {"rules", "transports", "errors"},
        "pool_background": {
            *("runtime", "rules", "discovery", "selection", "observability"),
            *("connections", "requests", "options"),
        },
        "pool": {
            *("rules", "discovery", "connections", "requests", "transports", "observability", "keys"),
            *("pool_background", "base_pool"),
        },
        "sync": {
            *("runtime", "rules", "discovery", "connections", "requests", "transports"),
            *("pool_background", "base_pool", "observability", "options", "keys"),
        },
    },
}
"""By room: the sub-rooms and top modules that each of its sub-rooms and top modules may import."""
COMPOSED = {"gossip": ("node", "dispatch", "coordinator", "inspection", "parts"), "discovery": ("server",)}
"""Modules that put a room's parts together. No part may know them."""


def modules() -> dict[str, Path]:
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(("rumormill", *(parts[:-1] if parts[-1] == "__init__" else parts)))
            found[name] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """The modules of ours that a module imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= inner or {node.module}
    return names & MODULES.keys()


IMPORTED = {name: imported(path) - {name} for name, path in MODULES.items()}


def levels() -> list[list[str]]:
    """All modules, each behind what it imports. Fails where some import each other in a circle."""
    left, done, order = dict(IMPORTED), set[str](), []
    while left:
        ready = sorted(name for name, needs in left.items() if needs <= done)
        assert ready, f"these modules import each other in a circle, or import one that does: {circle(left)}"
        order.append(ready)
        done.update(ready)
        for name in ready:
            del left[name]
    return order


def circle(left: dict[str, set[str]]) -> str:
    """One circle among modules of which each imports another of them."""
    way = [min(left)]
    while way[-1] not in way[:-1]:
        way.append(min(left[way[-1]] & left.keys()))
    return " -> ".join(way[way.index(way[-1]) :])


def part_of(name: str, room: str) -> str | None:
    """The sub-room or top module of a room that a module belongs to; None for other rooms and the room itself."""
    _, top, *rest = name.split(".")
    return rest[0] if top == room and rest else None


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert sum(map(len, levels())) == len(MODULES)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_sub_rooms_import_one_way(room: str) -> None:
    for name, needs in IMPORTED.items():
        part = part_of(name, room)
        if part is not None:
            parts = {one for one in (part_of(need, room) for need in needs) if one is not None}
            assert parts <= MAY_IMPORT[room][part] | {part}, name


@pytest.mark.parametrize("room", COMPOSED)
def test_no_part_knows_what_puts_the_parts_together(room: str) -> None:
    composing = {f"rumormill.{room}.{name}" for name in COMPOSED[room]}
    for name, needs in IMPORTED.items():
        part = part_of(name, room)
        if part is not None and part not in COMPOSED[room]:
            assert not needs & composing, name


def draw(room: str) -> str:
    """A line for each level of the import order, the modules that import nothing first."""
    lines = []
    for level in levels():
        inside = [name.removeprefix(f"rumormill.{room}.") for name in level if part_of(name, room) is not None]
        if inside:
            lines.append(f"{len(lines) + 1:>3}  {'  '.join(inside)}")
    return "\n".join((room, *lines))


if __name__ == "__main__":
    print("\n\n".join(draw(room) for room in sys.argv[1:] or ROOMS))
