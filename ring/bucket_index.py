"""An exact index over a ring's points, for rings that are asked often: one look instead of a bisection.

The circle is cut into buckets, many more than there are points. Most lie wholly between two points, so that all of
their keys have one owner, which is what stands in them; a bucket with a point in it is marked as split, and its keys
go the long way. The table begins empty and fills as it is asked: the first key that falls between two points fills
every bucket between them. So nobody waits for it to be built, and what is never asked for is never filled.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final

BUCKETS_PER_POINT: Final = 16
"""At least; with 16, some 6 % of the keys go the long way. More save these, and cost as much more memory."""
MIN_BITS: Final = 8
MAX_BITS: Final = 22
"""8 MB. Beyond some 260 000 points more and more keys go the long way."""

SPLIT: Final = 1
"""Marks a bucket with a point in it. 0 is one that nothing is known of; greater numbers are slots."""
FIRST_SLOT: Final = 2

_SCALE: Final = 65536.0


def empty_index(points: int, members: int) -> tuple[array[int], int]:
    """A table for so many points, and by how many bits a position is shifted to find its bucket."""
    bits = min(max((points * BUCKETS_PER_POINT - 1).bit_length(), MIN_BITS), MAX_BITS)
    return array("B" if members <= 256 - FIRST_SLOT else "H", [0]) * (1 << bits), 32 - bits


def fill(index: array[int], shift: int, points: array[float], slot: int, position: int) -> None:
    """Note that a slot owns a position: in every bucket that has no other owner, or else that this bucket is split."""
    at = bisect_left(points, position * _SCALE)
    first = (int(points[at - 1] / _SCALE) >> shift) + 1 if at else 0
    # Behind the last point stands the first one again, a whole circle on: the end of the table.
    beyond = int(points[at] / _SCALE) >> shift
    if first < beyond:
        index[first:beyond] = array(index.typecode, [slot]) * (beyond - first)
    if not first <= position >> shift < beyond:
        index[position >> shift] = SPLIT
