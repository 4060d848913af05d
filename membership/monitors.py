"""Who watches whom.

All present members stand on a circle in the order of their instances, which are hashes and so fall at random. A
member's monitors are its first K successors that are not suspect; with K + 1 members or fewer, that is everyone.
Each member computes this from its own table alone. Views that differ for a moment do no harm: an unexpected heartbeat
is a sign of life, and a missing one is verified before it counts for anything.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from rumormill.membership.table import MemberTable


def monitors_of(half: bytes, table: MemberTable, count: int) -> list[bytes]:
    """The halves a member sends its heartbeats to: ``count`` unsuspected successors, suspects filling up if too few."""
    monitors: list[bytes] = []
    suspects: list[bytes] = []
    for other in _successors(half, table.order):
        if other in table.suspects:
            suspects.append(other)
            continue
        monitors.append(other)
        if len(monitors) == count:
            return monitors
    return monitors + suspects[: count - len(monitors)]


def subjects_of(half: bytes, table: MemberTable, count: int) -> list[bytes]:
    """The halves a member expects heartbeats from: predecessors until ``count`` unsuspected ones are passed.

    Suspects among them are watched as well, at most three times ``count`` of them.
    """
    subjects: list[bytes] = []
    unsuspected = 0
    for other in _predecessors(half, table.order):
        subjects.append(other)
        unsuspected += other not in table.suspects
        if unsuspected == count or len(subjects) == 4 * count:
            break
    return subjects


def _successors(half: bytes, order: list[bytes]) -> Iterator[bytes]:
    start = bisect_right(order, half)
    for index in range(start, start + len(order)):
        other = order[index % len(order)]
        if other != half:
            yield other


def _predecessors(half: bytes, order: list[bytes]) -> Iterator[bytes]:
    start = bisect_left(order, half) - 1
    for index in range(start, start - len(order), -1):
        other = order[index % len(order)]
        if other != half:
            yield other
