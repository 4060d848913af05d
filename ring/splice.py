"""Putting points into a sorted list and taking points out of it, by copying the slices between them.

For the 400 points of one member among 400 000 that is some 800 small steps and a copy of the memory, where sorting or
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
"""Where in the list; whether a point is taken out there or put in before; and position, name and packed point."""


def insertion(points: array[float], point_slots: array[int], names: Sequence[str], packed: float, name: str) -> Edit:
    """A new point of this member: behind those of the same position whose members' names sort before."""
    position = packed // _SCALE
    at = bisect_left(points, position * _SCALE)
    while at < len(points) and points[at] // _SCALE == position and names[point_slots[at]] < name:
        at += 1
    return (at, False, position, name, packed)


def removals(points: array[float], packed: float) -> list[Edit]:
    """Every point that is packed so. Among points of one position slots are in no order."""
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
    """Both lists, edited. The last entry, which closes the circle, is left out of them."""
    new_points, new_slots = array("d"), array("H")
    done = 0
    # At one place additions sort before the removal, which then skips the old point behind them.
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
