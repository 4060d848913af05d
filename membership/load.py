"""How busy each member's worker is: the figures that change too fast for a record.

A figure belongs to one instance. It is numbered by that instance, and of two figures the higher number holds. No
digest, no index and no routing decision of the pool depends on figures.
"""

from __future__ import annotations

from typing import Annotated

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
