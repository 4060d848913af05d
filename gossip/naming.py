"""Taking a name, and keeping it.

A newcomer's generation is one above the highest known of its name. If a live incumbent holds the name it comes in
*pending*: known, watched, and not routed. It settles when its table holds the incumbent dead or left. The incumbent's
monitors look after it at once, so a restart does not wait out three periods; a live incumbent tells the rival that the
name is taken, and by whom, and the rival stops.

Two settled lives of one name meet where a split heals or a theft took place. The lower one pings the higher: if that
instance answers, the lower stops with a clear error; if it is dead, the lower goes one generation higher; if it stays
silent for three periods, one higher and pending. (Without this, names were lost in most of 90 runs of restarts, splits
and thefts; with it one winner and one view in 88.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rumormill.gossip.pings import Pings
from rumormill.gossip.spread import Spread
from rumormill.gossip.state import State, new_keys
from rumormill.gossip.wire import KnownLife, Taken
from rumormill.membership.record import HALF_BYTES, MAX_LIFE, Address
from rumormill.membership.row import Row


class Naming:
    """Our own name: which life of it we are, and whether it is ours."""

    def __init__(self, state: State, spread: Spread, pings: Pings, on_rewrite: Callable[[], None]) -> None:
        self._state = state
        self._spread = spread
        self._pings = pings
        self._on_rewrite = on_rewrite
        self._contested_since = math.inf
        self._pending_since = math.inf
        self._introduced = False
        """Whether our record was shown to somebody who asked for it: until then we may still choose our life."""
        self.stopped: str | None = None

    @property
    def deadline(self) -> float:
        if self.stopped:
            return math.inf
        waiting = self._pending_since if self._state.identity.pending else self._contested_since
        return waiting + 3 * self._state.settings.period

    def introduce(self, lives: list[KnownLife]) -> None:
        """Our record is about to be shown: be the latest life of the name, pending if it is in use.

        This is chosen the first time, and again where nobody there would take our record beside what they hold.
        """
        state = self._state
        if self._introduced and not self._outlived(lives):
            return
        self._introduced = True
        others = [life for life in lives if life.instance != state.me.instance]
        highest = max((life.generation for life in others), default=0)
        if highest >= state.identity.generation and highest + 1 < MAX_LIFE:
            incumbent = any(life.liveness.present and not life.pending for life in others)
            self._become(highest + 1, pending=incumbent)

    def _outlived(self, lives: list[KnownLife]) -> bool:
        """Whether a life above ours ended there, or is the incumbent's while we are pending.

        Two that both live and are settled contest the name instead.
        """
        me = self._state.me
        return any(
            life.instance != me.instance
            and (life.generation, life.instance) > me.life
            and (not life.liveness.present or (me.pending and not life.pending))
            for life in lives
        )

    def review(self) -> None:
        """Rows of our name changed: settle, warn a rival, or defend ourselves."""
        state = self._state
        if self.stopped:
            return
        settled = state.table.settled.get(state.me.name)
        rival = state.table.pending.get(state.me.name)
        if state.identity.pending:
            if settled is None or not settled.present:
                self._settle(settled)
            return
        if settled is not None and settled.instance != state.me.instance:
            self._contest(settled)
            return
        self._contested_since = math.inf
        if rival is not None and rival.present and rival.instance != state.me.instance:
            self._warn(rival)

    def tick(self) -> None:
        """A contested name: three periods of silence decide. While pending, look again every three periods."""
        if self._state.now < self.deadline:
            return
        if self._state.identity.pending:
            self._pending_since = self._state.now
            self.review()
            if self._state.identity.pending and (holder := self._state.table.settled.get(self._state.me.name)):
                self._pings.ping(holder)  # if it lives, it tells us that the name is taken
        else:
            holder = self._state.table.settled.get(self._state.me.name)
            self._contested_since = math.inf
            if holder is not None and holder.instance != self._state.me.instance:
                self._become(holder.generation + 1, pending=True)

    def heard_from(self, row: Row) -> None:
        """A member of our own name, but not us, shows a sign of life."""
        state = self._state
        if row.name != state.me.name or row.half == state.me.half:
            return
        if row.pending:
            if not state.identity.pending:
                self._warn(row)
            return
        if not state.identity.pending and row.life > state.me.life and self._contested_since < math.inf:
            self._stop(row.instance, row.address)

    def hear_taken(self, taken: Taken, source: Address) -> None:
        """The holder of our name says so. Only a pending newcomer gives way to mere words."""
        if self._state.identity.pending and taken.name == self._state.me.name and self.stopped is None:
            self._stop(taken.instance, source)

    def rekey(self) -> None:
        """Somebody else goes by our very instance (a cloned machine): take new keys, in a new life."""
        state = self._state
        state.identity.keys = new_keys(state.token_bytes)
        self._become(state.identity.generation + 1, pending=False)

    def _settle(self, predecessor: Row | None) -> None:
        state = self._state
        generation = state.identity.generation
        if predecessor is not None and predecessor.generation >= generation:
            generation = predecessor.generation + 1
        self._become(generation, pending=False)
        state.tell("settled", state.me.name, f"{state.me.name} took its name over from a life that ended")

    def _contest(self, holder: Row) -> None:
        state = self._state
        if not holder.present:
            self._become(holder.generation + 1, pending=False)
        elif not self._introduced:
            self._become(holder.generation + 1, pending=True)
        elif holder.life > state.me.life:
            if self._contested_since == math.inf:
                self._contested_since = state.now
            self._pings.ping(holder)

    def _warn(self, rival: Row) -> None:
        state = self._state
        if state.once(rival.half, "taken", state.settings.period):
            state.send(rival, Taken(state.me.name, state.me.instance))

    def _become(self, generation: int, *, pending: bool) -> None:
        """Write ourselves anew in this generation, or above lives of the name that ended, and say so to everyone."""
        state = self._state
        lives = (row for row in state.table.lives(state.me.name) if row.instance != state.me.instance)
        generation = max([generation, *(row.generation + 1 for row in lives if not row.present)])
        if generation >= MAX_LIFE:
            self._stop(b"", None)
            return
        state.identity.generation = generation
        state.identity.pending = pending
        self._pending_since = state.now
        state.raise_incarnation()
        self._contested_since = math.inf
        self._spread.announce(state.me.half, wide=True)
        self._on_rewrite()

    def _stop(self, holder: bytes, address: Address | None) -> None:
        """Give the name up, and say goodbye so that nobody has to miss us first."""
        state = self._state
        where = f" at {address[0]}:{address[1]}" if address else ""
        self._spread.say_goodbye((address, holder[:HALF_BYTES]) if address else None)
        self.stopped = (
            f"the name {state.me.name!r} is taken by a live member{where}"
            f" (instance {holder.hex()}): give this one another --name, or stop that one first"
        )
        state.tell("taken", state.me.name, self.stopped)
