"""Inserts points into a sorted list and removes points from it, by copying the slices between them.

For the 400 points of one member among 400 000 this takes about 800 small steps and a copy of the memory. Sorting or
filtering the list would touch every point in Python.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

_SCALE: Final = 65536.0
_SLOT: Final = 0xFFFF

Edit = tuple[int, bool, float, str, float]
"""Index in the list; whether its point is removed, or a point inserted before it; position, name, packed point."""


def insertion(points: array[float], point_slots: array[int], names: Sequence[str], packed: float, name: str) -> Edit:
    """Insert a point of this member, behind points of the same position whose members' names sort before."""
    position = packed // _SCALE
    at = bisect_left(points, position * _SCALE)
    while at < len(points) and points[at] // _SCALE == position and names[point_slots[at]] < name:
        at += 1
    return (at, False, position, name, packed)


def removals(points: array[float], packed: float) -> list[Edit]:
    """Remove every point with this packed value. Points of one position are in no order of slots."""
    position = packed // _SCALE
    at = bisect_left(points, position * _SCALE)
    edits: list[Edit] = []
    while at < len(points) and points[at] // _SCALE == position:
        if points[at] == packed:
            edits.append((at, True, 0.0, "", packed))
        at += 1
    return edits


def apply_edits(
    points: array[float], point_slots: array[int], edits: Iterable[Edit]
) -> tuple[array[float], array[int]]:
    """Both lists, edited, without the last entry, which closes the circle."""
    new_points, new_slots = array("d"), array("H")
    done = 0
    # At one index insertions sort before the removal, which then skips the old point behind them.
    for at, removal, _, _, packed in sorted(edits):
        if done < at:
            new_points += points[done:at]
            new_slots += point_slots[done:at]
            done = at
        if removal:
            done += 1
        else:
            new_points.append(packed)
            new_slots.append(int(packed) & _SLOT)
    new_points += points[done:-1]
    new_slots += point_slots[done:-1]
    return new_points, new_slots
