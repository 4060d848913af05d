"""An exact index over a ring's points, for rings with many lookups: one array access instead of a bisection.

The circle is cut into buckets, many more than there are points. Most lie wholly between two points, so all their
keys have one owner; such a bucket holds its owner. A bucket with a point in it is marked as split, and its keys need a
bisection. The table begins empty and fills with lookups: the first key between two points fills every bucket between
them. So no caller waits for the table to be built, and parts without lookups are never filled.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

BUCKETS_PER_POINT: Final = 16
"""At least this many; with 16, about 6 % of the keys need a bisection. More buckets need more memory."""
MIN_BITS: Final = 8
MAX_BITS: Final = 22
"""8 MB. Beyond about 260 000 points more and more keys need a bisection."""

SPLIT: Final = 1
"""Marks a bucket with a point in it. 0 marks an unknown bucket; greater numbers are slots."""
FIRST_SLOT: Final = 2

_SCALE: Final = 65536.0


def empty_index(points: int, members: int) -> tuple[array[int], int]:
    """A table for this many points, and the number of bits by which a position is shifted to find its bucket."""
    bits = min(max((points * BUCKETS_PER_POINT - 1).bit_length(), MIN_BITS), MAX_BITS)
    return array("B" if members <= 256 - FIRST_SLOT else "H", [0]) * (1 << bits), 32 - bits


def fill(index: array[int], shift: int, points: array[float], slot: int, position: int) -> None:
    """Record that a slot owns a position: in all buckets that only it owns, or mark the position's bucket as split."""
    at = bisect_left(points, position * _SCALE)
    first = (int(points[at - 1] / _SCALE) >> shift) + 1 if at else 0
    # The first point is repeated behind the last, one circle further: that is the end of the table.
    beyond = int(points[at] / _SCALE) >> shift
    if first < beyond:
        index[first:beyond] = array(index.typecode, [slot]) * (beyond - first)
    if not first <= position >> shift < beyond:
        index[position >> shift] = SPLIT
