"""Flapping is damped by whoever flaps: a member that keeps dying lets callers wait before it takes work again.

Each member remembers when lives of a name ended. A newcomer is told that with the answer to its join, beside the lives
of its name, and puts itself on probation: it says *starting*, whatever its worker's check finds, for 5, 15, 45 … s
from the third start within a minute on (route flap damping, RFC 2439, done by the flapping one itself). No clock is
compared, only ages; nobody else judges; and whoever starts once, or twice, never waits. An end that was said before is
no flap: a goodbye, or that the worker was draining.

How long it still takes no work stands in its record, so that every sidecar can say so. That counts from when the record
is heard; so that who hears it late does not wait for long in vain, it is said anew from time to time.
"""

from __future__ import annotations

import itertools
import math
from collections import deque

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.reporting.event_kinds import SERVED
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import MAX_ENDS, Challenge
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.table import MemberChange

WINDOW = 60.0
"""Two lives of a name that end within this of each other are a flap. Larger: slow crash loops are damped as well."""
FACTOR = 3
LONGEST = 300.0
SAY_AGAIN = 15.0
"""Seconds after which what is left of a probation is said anew. Larger: newcomers to the pool tell of so much more."""
INTRODUCTION = 5.0
"""Seconds from our start for which answers to our join may still impose probation: it is about how we started."""


def probation(ages: list[float], first: float) -> float:
    """Seconds on probation for a name whose lives ended so many seconds ago, in any order.

    A life that ends within a minute, and the probation it was on, of the one before it raises the level by one, any
    other sets it to zero; the first level waits ``first`` seconds, each further one three times as long.
    """
    level = 0
    oldest_first = sorted(ages, reverse=True)
    for earlier, later in itertools.pairwise(oldest_first):
        level = level + 1 if earlier - later <= WINDOW + _wait(level, first) else 0
    long_ago = not ages or min(ages) > WINDOW + _wait(level, first)
    return 0.0 if long_ago else _wait(level, first)


def _wait(level: int, first: float) -> float:
    return min(first * FACTOR ** (level - 1), LONGEST) if level else 0.0


class FlapDamping(Part):
    """Remembers ends of others, and keeps our own probation."""

    __slots__ = ("_born", "_broadcast", "_ends", "_failures", "_over_at", "_state", "deadline")

    deadline: float

    def __init__(self, state: NodeState, spread: Broadcast) -> None:
        self._state = state
        self._broadcast = spread
        self._born = state.now
        self._over_at = math.inf
        """When our probation ends; infinite when we are on none."""
        self.deadline = math.inf
        """When it does, or is to be spoken of again."""
        self._ends: dict[str, deque[float]] = {}
        self._failures: deque[float] = deque(maxlen=MAX_ENDS)
        """When the worker beside us failed, while we went on."""

    @property
    def remaining(self) -> float:
        """Seconds of probation left; 0 when on none."""
        return max(0.0, self._over_at - self._state.now) if self._over_at < math.inf else 0.0

    def tick(self) -> None:
        """Probation may be over: say of our worker what is true of it."""
        state = self._state
        if state.now < self.deadline:
            return
        if state.leaving:  # whatever we said now would bring us back
            self.deadline = math.inf
            return
        if over := state.now >= self._over_at:
            self._over_at = math.inf
            state.identity.probation_ends = -math.inf
            state.record_event("probation", state.me.name, f"{state.me.name} {SERVED}")
        self._say(wide=over)

    def handle_challenge(self, challenge: Challenge) -> None:
        """Somebody told us how our name fared before; the sternest account counts."""
        state = self._state
        first = state.settings.probation
        if not first or state.now - self._born > INTRODUCTION:
            return
        ages = [float(age) for age in challenge.ends]
        others = [life for life in challenge.lives if life.instance != state.me.instance]
        if any(life.liveness.present and not life.pending and not life.draining for life in others):
            ages.append(0.0)  # not missed by anyone yet, but here we are
        seconds = probation(ages, first)
        if seconds:
            self._extend(self._born + seconds, f"for {seconds:g} s: {len(ages)} lives of it ended shortly before")

    def worker_failed(self) -> None:
        """The worker beside us fails: as much a flap as the end of a life, counted from the second within a minute.
        One that is drained may: it was to take no work."""
        state = self._state
        if state.identity.profile.readiness is Readiness.DRAINING:
            return
        self._failures.append(state.now)
        if not state.settings.probation:
            return
        if seconds := probation([state.now - at for at in self._failures], state.settings.probation):
            self._extend(
                state.now + seconds, f"for {seconds:g} s: its worker failed {len(self._failures)} times lately"
            )

    def _extend(self, until: float, why: str) -> None:
        state = self._state
        if until <= state.now or (self._over_at < math.inf and until <= self._over_at):
            return
        self._over_at = state.identity.probation_ends = until
        state.record_event("probation", state.me.name, f"{state.me.name} takes no work {why}")
        self._say(wide=True)

    def _say(self, *, wide: bool) -> None:
        """Tell the others how long it still takes, or that it is over."""
        state = self._state
        self.deadline = min(self._over_at, state.now + SAY_AGAIN) if self._over_at < math.inf else math.inf
        state.raise_incarnation()
        state.effects.own_record_changed()
        self._broadcast.announce(state.me.member_id, wide=wide)

    # --- about others

    def death_ages(self, name: str) -> list[int]:
        """How many seconds ago lives of a name ended unannounced, as far as is known here."""
        return [max(0, min(int(self._state.now - at), 2**16 - 1)) for at in self._ends.get(name, ())]

    def note_change(self, change: MemberChange) -> None:
        """A row changed: perhaps a life of a name has ended, or one that was given up is back, or had said goodbye."""
        before, after = change.before, change.after
        if after is None or after.pending:
            return
        if before is None or not change.same_instance:
            if after.liveness is Liveness.DEAD:
                self._note_end(after)
            elif after.present and before is not None and before.present:
                self._note_end(before)
        elif before.present and after.liveness is Liveness.DEAD:
            self._note_end(after)
        elif before.liveness is Liveness.DEAD and after.liveness is not Liveness.DEAD:
            self._forget_end(before)

    def _note_end(self, row: MemberState) -> None:
        if not row.draining:
            ends = self._ends.setdefault(row.name, deque(maxlen=MAX_ENDS))
            ends.append(self._state.dead_since.get(row.member_id, self._state.now))

    def _forget_end(self, row: MemberState) -> None:
        if not row.draining and (ends := self._ends.get(row.name)):
            ends.pop()

    def forget_old(self) -> None:
        """Forget what no probation can come of any more."""
        old = self._state.now - 2 * LONGEST
        self._ends = {name: ends for name, ends in self._ends.items() if ends and ends[-1] > old}
