"""Doubt yourself before the pool: what a member does when many others seem lost at once.

Great losses wait. Where more than a quarter of a pool of four or more (at least two) is lost within six periods,
further deaths are held for three periods; what is heard from in that time was never dead. At more than half, or when
nothing is heard from anyone for three periods while at least two others were present, the likelier explanation is that
*we* are cut off: the member is *isolated*. It evicts nobody, votes against nobody, takes over nobody and believes no
death; what it misses it shows as suspect, which callers already try last, and the routing digest stays. That is right
for a cut and for a mass failure alike. Once all of them have been missing for a minute it gives them up alone. In the
smallest pools a newcomer takes the place of a member lost before: three that have replaced one may lose another.

Coming back is like waking from a pause: votes, counts and held deaths are void, and suspicions of our own that nobody
ever heard are withdrawn instead of spread.
"""

from __future__ import annotations

import math

from rumormill.gossip.state import State
from rumormill.membership.record import Liveness

SMALLEST = 4
"""Members with whom a newcomer makes up for a loss. In larger pools whoever invents members is not to hide losses."""


class Isolation:
    """Whether we may judge, and what waits until we know."""

    __slots__ = (
        "_deaf",
        "_deaf_after",
        "_held",
        "_losses",
        "_lost",
        "_missed_since",
        "_patient_until",
        "_since",
        "_state",
        "own_suspicions",
    )

    def __init__(self, state: State) -> None:
        self._state = state
        self._losses: dict[bytes, float] = {}
        self._held: dict[bytes, float] = {}
        self._since = self._patient_until = -math.inf
        self._deaf = False
        self._deaf_after = 3 * state.settings.period
        self._lost: tuple[bytes, ...] = ()
        self._missed_since: dict[bytes, float] = {}
        """Whom we have not heard since we missed it first, though the suspicion was withdrawn meanwhile."""
        self.own_suspicions: dict[bytes, None] = {}
        """Whom we suspect on our own account: withdrawn when it turns out that we were the one cut off."""

    @property
    def deadline(self) -> float:
        state = self._state
        if state.isolated:
            return state.now + state.settings.period
        deaf = state.heard_anyone + self._deaf_after if len(state.table.order) > 2 else math.inf
        return min(deaf, *self._held.values()) if self._held else deaf

    @property
    def deaf(self) -> bool:
        return self._deaf

    @property
    def alone(self) -> bool:
        """Isolated for so long that our own vote must do."""
        return self._state.isolated and self._state.now >= self._patient_until

    @property
    def silent(self) -> bool:
        """Whether we abstain from judging others."""
        return self._state.isolated and not self.alone

    def defers(self, half: bytes) -> bool:
        """Called with a death that has its votes: True if it must wait, or must not be believed here."""
        if self.alone:
            return False
        state, period = self._state, self._state.settings.period
        row = state.table.get(half)
        if row is not None and row.name == state.me.name:
            return state.isolated  # our own former life is nobody's loss
        self._losses = {h: at for h, at in self._losses.items() if state.now - at <= 6 * period}
        self._losses.setdefault(half, state.now)
        if state.isolated:
            return True
        buried = sum(1 for h in self._losses if h in state.table.buried)
        pool = len(state.table.order) + buried
        if pool < 4 or len(self._losses) < 2 or 4 * len(self._losses) <= pool:
            return False
        if 2 * len(self._losses) > pool:
            self._isolate(deaf=False)
            return True
        release = self._held.setdefault(half, state.now + 3 * period)
        return state.now < release

    def joined(self) -> None:
        """Somebody new has a name of its own here: in the smallest pools that makes the earliest death good."""
        if len(self._state.table.order) > SMALLEST:
            return
        for half in self._losses:
            if half in self._state.table.buried:
                del self._losses[half]
                return

    def due(self) -> list[bytes]:
        """Held deaths whose time has come, in the order they were held. They still need to pass :meth:`defers`."""
        return [half for half, release in self._held.items() if self._state.now >= release]

    def tick(self) -> None:
        """Notice that nobody is heard any more, or that it is over."""
        state = self._state
        if not state.isolated:
            if len(state.table.order) > 2 and state.now - state.heard_anyone >= self._deaf_after:
                self._isolate(deaf=True)
        elif self.alone and not state.table.suspects:
            self._end("nobody is missing any more")

    def sign_of_life(self, half: bytes) -> bool:
        """Somebody was heard; True if that ends our isolation."""
        if self._losses or self._missed_since:  # a held death counts for a loss
            self.not_lost(half)
        if not self._state.isolated:
            return False
        if self._deaf:
            self._end("heard " + self._state.name_of(half))
            return True
        if 2 * len(self._missing()) <= len(self._lost):
            self._end("most of those missing are heard again")
            return True
        return False

    def not_lost(self, half: bytes) -> None:
        """Somebody was heard, by us or by others: its death waits no longer, and it counts for no loss."""
        self._held.pop(half, None)
        self._missed_since.pop(half, None)
        if half in self._losses and half not in self._state.table.buried:
            del self._losses[half]

    def cleared(self, half: bytes) -> None:
        """The member refuted, or is gone for good: nothing is held against it."""
        self.buried(half)
        self._losses.pop(half, None)

    def buried(self, half: bytes) -> None:
        self._held.pop(half, None)
        self._missed_since.pop(half, None)
        self.own_suspicions.pop(half, None)

    def missed_since(self, half: bytes) -> float:
        """Since when a suspect has been missed."""
        state = self._state
        return self._missed_since.get(half, state.suspect_since.get(half, state.now))

    def withdrawn(self, half: bytes, missed_since: float) -> None:
        """A suspicion of ours was withdrawn, but nothing was heard of its subject."""
        self._missed_since[half] = missed_since

    def void(self) -> None:
        """Forget what was held: we were paused or cut off."""
        self._held.clear()
        self._losses.clear()

    def _missing(self) -> list[bytes]:
        """Those lost that nobody has shown to be well since. Whom we gave up ourselves, alone, is missing still."""
        state = self._state
        rows = [row for half in self._lost if (row := state.table.get(half)) is not None]
        silent = (row for row in rows if state.heard.get(row.half, -math.inf) < self._since)
        return [row.half for row in silent if row.liveness in (Liveness.SUSPECT, Liveness.DEAD)]

    def _isolate(self, *, deaf: bool) -> None:
        state = self._state
        state.isolated, self._deaf, self._since = True, deaf, state.now
        missing = dict.fromkeys([*state.table.suspects, *self._losses])
        if deaf:
            missing = dict.fromkeys(h for h in state.table.order if h != state.me.half)
        self._lost = tuple(h for h in missing if h not in state.table.buried)
        last_missed = max(map(self.missed_since, self._lost), default=state.now)
        self._patient_until = last_missed + state.settings.isolation_patience
        self._held.clear()
        reason = "nobody is heard" if deaf else f"{len(self._lost)} of {len(state.table.order)} are missing at once"
        state.tell("isolated", state.me.name, f"{state.me.name} is isolated: {reason}; it evicts nobody")

    def _end(self, reason: str) -> None:
        state = self._state
        state.isolated, self._deaf, self._lost = False, False, ()
        self.void()
        state.tell("rejoined", state.me.name, f"{state.me.name} is no longer isolated: {reason}")
