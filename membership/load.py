"""How busy each member's worker is: the figures that change too fast for a record.

A figure belongs to one instance. It is numbered by that instance, and of two figures the higher number holds. No
digest, no index and no routing decision of the pool depends on figures.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from rumormill.membership.record import MemberId, MonotonicCounter

MAX_UTILIZATION = 2000
"""In thousandths. More than 1000 is a worker that holds more than it can work on at once."""
MAX_QUEUE = 65_535


class Load(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A worker's load as its own member states it."""

    number: MonotonicCounter
    """Raised by the member at each figure that it announces."""
    utilization: Annotated[int, msgspec.Meta(ge=0, le=MAX_UTILIZATION)] | None
    """In thousandths of what the worker can do at once; None while the member cannot tell."""
    queue: Annotated[int, msgspec.Meta(ge=0, le=MAX_QUEUE)] = 0
    """Requests that wait inside the worker."""


class CallerCounts(NamedTuple):
    """What callers report to one member about another's worker. All but the first only grow while a member lives."""

    under_way: int
    """Requests that the callers have there now."""
    finished: int
    """Requests that they saw answered."""
    doubts: int
    """How often one of them said that the worker failed it."""


class MemberLoad(msgspec.Struct, frozen=True, gc=False):
    """A member's load as an observer knows it now."""

    utilization: float
    """1.0 is a worker that is full."""
    queue: int
    heard: float
    """When the member last stated it, on the observer's clock in seconds."""


class LoadRegister:
    """The latest figure of each member, and when that member itself last stated it. Times in seconds."""

    __slots__ = ("figures", "heard", "version")

    def __init__(self) -> None:
        self.figures: dict[MemberId, Load] = {}
        self.heard: dict[MemberId, float] = {}
        self.version = 0
        """Raised when a figure changes."""

    def hear(self, member_id: MemberId, load: Load, now: float) -> None:
        """A member stated its load. An earlier figure than the one held came late, and changes nothing."""
        held = self.figures.get(member_id)
        if held is None or load.number > held.number:
            self.figures[member_id] = load
            self.version += 1
        elif load.number < held.number:
            return
        self.heard[member_id] = now


class CallerRegister:
    """What the callers of each other member report of our worker. Times in seconds."""

    __slots__ = ("doubts", "finished", "latest")

    def __init__(self) -> None:
        self.latest: dict[MemberId, tuple[CallerCounts, float]] = {}
        """By the member that passed it on, with when it did."""
        self.finished = 0
        """Requests that all of them saw answered since we know them."""
        self.doubts = 0
        """How often one of their callers said that our worker failed it."""

    def hear(self, member_id: MemberId, counts: CallerCounts, now: float) -> None:
        """A member passed on what its callers report. Counts that have gone back came late, or are a new beginning."""
        before, _ = self.latest.get(member_id, (CallerCounts(0, counts.finished, 0), now))
        self.finished += max(counts.finished - before.finished, 0)
        self.doubts += max(counts.doubts - before.doubts, 0)
        self.latest[member_id] = counts, now

    def under_way(self, since: float) -> int | None:
        """Requests under way, by what was heard after ``since``; None if nothing was."""
        told = [counts.under_way for counts, at in self.latest.values() if at > since]
        return sum(told) if told else None
