"""What is done now and then: the dead are tried again, tombstones that have served their time are forgotten.

Retrying one dead member at a time is how the two sides of a healed partition find each other.
"""

from __future__ import annotations

from rumormill.gossip.damping import Damping
from rumormill.gossip.naming import Naming
from rumormill.gossip.pings import Pings
from rumormill.gossip.seal import RENEW_COUNTER
from rumormill.gossip.state import State
from rumormill.gossip.votes import VoteBook
from rumormill.membership.record import Liveness

EVERY = 10.0
"""Seconds between two looks at the tombstones."""


class Housekeeping:
    """Keeps the table tidy, and in touch with whom it lost."""

    __slots__ = ("_damping", "_naming", "_next_look", "_next_retry", "_pings", "_state", "_votes", "deadline")

    def __init__(self, state: State, votes: VoteBook, pings: Pings, naming: Naming, damping: Damping) -> None:
        self._state = state
        self._votes = votes
        self._pings = pings
        self._naming = naming
        self._damping = damping
        self.restart()

    def restart(self) -> None:
        """After a pause of our own, everything counts from now."""
        state = self._state
        self._next_look = state.now + EVERY
        self._next_retry = state.now + state.settings.dead_retry
        self.deadline = min(self._next_look, self._next_retry)

    def tick(self) -> None:
        now = self._state.now
        if now >= self._next_retry:
            self._retry_dead()
        if now >= self._next_look:
            self._look()
        self.deadline = min(self._next_look, self._next_retry)

    def _retry_dead(self) -> None:
        state = self._state
        self._next_retry = state.now + state.settings.dead_retry * (0.75 + 0.5 * state.rng.random())
        rows = (state.table.get(half) for half in state.table.buried)
        dead = [row for row in rows if row is not None and row.liveness is Liveness.DEAD and row.address]
        if dead:
            self._pings.ping(state.rng.choice(dead))

    def _look(self) -> None:
        """Forget tombstones and what is remembered of them, and when superseded lives were heard; take new keys before
        the old ones have sealed too much."""
        state = self._state
        if state.seal.counter >= RENEW_COUNTER:
            self._naming.renew()
        self._next_look = state.now + EVERY
        self._damping.keep_house()
        for half in list(state.table.buried):
            if state.now - state.dead_since.get(half, state.now) < state.settings.tombstone_life:
                continue
            state.table.forget(half)
            state.seal.forget(half)
            for memory in state.memories():
                memory.pop(half, None)
            self._votes.clear(half)
            self._pings.forget(half)
        for half in [half for half in state.heard if state.table.get(half) is None and not state.heard_lately(half)]:
            del state.heard[half]
