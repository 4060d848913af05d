"""The contract between the node and its parts."""

from __future__ import annotations

import enum
import math
from typing import Protocol


class StepEffect(enum.Enum):
    """What a step did, as far as the deadlines of other parts are concerned."""

    NOTHING = "nothing"
    """A datagram was dropped. No deadline moved."""
    HEARTBEAT = "heartbeat"
    """Only heartbeats were sent, or one without news arrived. Other parts' deadlines can only have moved later."""
    ANY = "any"
    """Any deadline may have moved."""


NOTHING, HEARTBEAT, ANY = StepEffect.NOTHING, StepEffect.HEARTBEAT, StepEffect.ANY
"""Module constants, because an enum attribute lookup costs as much as a call in Python 3.11."""


class Part(Protocol):
    """One part of the protocol, with deadlines and memory of its own. The node runs all parts in one order.

    Deadlines are in seconds on the node's clock. A part overrides what it needs: by default it has no deadline, does
    nothing at a tick, and keeps nothing that a pause of this process makes void.
    """

    __slots__ = ()

    @property
    def deadline(self) -> float:
        """When the node must wake and call :meth:`tick`."""
        return math.inf

    @property
    def lazy_deadline(self) -> float:
        """When :meth:`tick` has work that can wait for the next heartbeat. The node does not wake for it."""
        return math.inf

    def tick(self) -> StepEffect | None:
        """Do what is due. May be called early, and then does nothing. None stands for any effect."""
        return None

    def restart(self) -> None:
        """This process was paused. Void what was counted before, and count all deadlines from now."""
        return
