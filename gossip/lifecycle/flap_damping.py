"""Flap damping: a member that keeps dying puts itself on probation before it takes work again (RFC 2439).

Each member remembers when instances of a name ended, and tells a newcomer with the answer to its join. From its third
start within a minute on, the newcomer reports *starting* for 5, 15, 45 … s, whatever its worker's check finds. Only
ages are exchanged, so no clocks are compared. The member judges itself. One or two starts never lead to probation. An
announced end is no flap: a leave message, or a worker that was draining.

A member's record says how long its probation still lasts, so that every sidecar can show it. Receivers count from the
moment they hear the record. The member repeats it from time to time, so that members that hear it late do not count too
long.
"""

from __future__ import annotations

import itertools
import math
from collections import deque

from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.part import Part
from rumormill.gossip.reporting.event_kinds import PROBATION_OVER
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import MAX_ENDS, Challenge
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Liveness, Readiness
from rumormill.membership.table import MemberChange

FLAP_WINDOW = 60.0
"""Two instances of a name that end within so many seconds are a flap. Larger: slower crash loops are damped as well."""
FACTOR = 3
LONGEST_PROBATION = 300.0
REANNOUNCE_EVERY = 15.0
"""Seconds between announcements of the rest of a probation. Larger: new sidecars overstate it by up to this."""
JOIN_WINDOW = 5.0
"""Seconds from our start for which answers to our join may impose probation."""


def probation(ages: list[float], first: float) -> float:
    """Seconds on probation for a name whose instances ended so many seconds ago, in any order.

    An end within a minute (plus the probation served meanwhile) of the one before it raises the level by one. Any other
    end resets it to zero. The first level lasts ``first`` seconds, and each further one three times as long.
    """
    level = 0
    oldest_first = sorted(ages, reverse=True)
    for earlier, later in itertools.pairwise(oldest_first):
        level = level + 1 if earlier - later <= FLAP_WINDOW + _wait(level, first) else 0
    long_ago = not ages or min(ages) > FLAP_WINDOW + _wait(level, first)
    return 0.0 if long_ago else _wait(level, first)


def _wait(level: int, first: float) -> float:
    return min(first * FACTOR ** (level - 1), LONGEST_PROBATION) if level else 0.0


class FlapDamping(Part):
    """Remembers when instances of others ended, and runs our own probation."""

    __slots__ = ("_broadcast", "_deaths", "_ends_at", "_failures", "_started_at", "_state", "deadline")

    deadline: float

    def __init__(self, state: NodeState, broadcast: Broadcast) -> None:
        self._state = state
        self._broadcast = broadcast
        self._started_at = state.now
        self._ends_at = math.inf
        """When our probation ends; infinite if we are on none."""
        self.deadline = math.inf
        """When our probation ends, or is to be announced again."""
        self._deaths: dict[str, deque[float]] = {}
        self._failures: deque[float] = deque(maxlen=MAX_ENDS)
        """When our worker failed while this sidecar went on."""

    @property
    def remaining(self) -> float:
        """Seconds of our probation that are left; 0 if we are on none."""
        return max(0.0, self._ends_at - self._state.now) if self._ends_at < math.inf else 0.0

    def tick(self) -> None:
        """End our probation when its time has come, or announce again how long it lasts."""
        state = self._state
        if state.now < self.deadline:
            return
        if state.leaving:  # a new record would bring us back
            self.deadline = math.inf
            return
        if over := state.now >= self._ends_at:
            self._ends_at = math.inf
            state.identity.probation_ends = -math.inf
            state.record_event("probation", state.me.name, f"{state.me.name} {PROBATION_OVER}")
        self._announce(wide=over)

    def handle_challenge(self, challenge: Challenge) -> None:
        """A member tells us when earlier instances of our name ended; the longest probation counts."""
        state = self._state
        first = state.settings.probation
        if not first or state.now - self._started_at > JOIN_WINDOW:
            return
        ages = [float(age) for age in challenge.ends]
        others = [known for known in challenge.instances if known.instance != state.me.instance]
        if any(known.liveness.present and not known.pending and not known.draining for known in others):
            ages.append(0.0)  # nobody has missed it yet, but we have its name
        seconds = probation(ages, first)
        if seconds:
            self._impose(
                self._started_at + seconds,
                f"for {seconds:g} s: {len(ages)} earlier instances of it ended within a short time",
            )

    def worker_failed(self) -> None:
        """Our worker failed: from the second time within a minute on, a flap like the end of an instance.

        A draining worker may fail, because it takes no work.
        """
        state = self._state
        if state.identity.profile.readiness is Readiness.DRAINING:
            return
        self._failures.append(state.now)
        if not state.settings.probation:
            return
        if seconds := probation([state.now - at for at in self._failures], state.settings.probation):
            self._impose(
                state.now + seconds,
                f"for {seconds:g} s: its worker failed {len(self._failures)} times within a short time",
            )

    def _impose(self, until: float, why: str) -> None:
        state = self._state
        if until <= state.now or (self._ends_at < math.inf and until <= self._ends_at):
            return
        self._ends_at = state.identity.probation_ends = until
        state.record_event("probation", state.me.name, f"{state.me.name} takes no work {why}")
        self._announce(wide=True)

    def _announce(self, *, wide: bool) -> None:
        """Tell the others how long our probation still lasts, or that it is over."""
        state = self._state
        self.deadline = min(self._ends_at, state.now + REANNOUNCE_EVERY) if self._ends_at < math.inf else math.inf
        state.raise_incarnation()
        state.effects.own_record_changed()
        self._broadcast.announce(state.me.member_id, wide=wide)

    # --- about others

    def death_ages(self, name: str) -> list[int]:
        """How many seconds ago instances of a name ended unannounced, as far as we know."""
        return [max(0, min(int(self._state.now - at), 2**16 - 1)) for at in self._deaths.get(name, ())]

    def note_change(self, change: MemberChange) -> None:
        """A row changed: an instance may have died, or one believed dead may be back, or turn out to have left."""
        before, after = change.before, change.after
        if after is None or after.pending:
            return
        if before is None or not change.same_instance:
            if after.liveness is Liveness.DEAD:
                self._note_death(after)
            elif after.present and before is not None and before.present:
                self._note_death(before)
        elif before.present and after.liveness is Liveness.DEAD:
            self._note_death(after)
        elif before.liveness is Liveness.DEAD and after.liveness is not Liveness.DEAD:
            self._forget_death(before)

    def _note_death(self, row: MemberState) -> None:
        if not row.draining:
            ends = self._deaths.setdefault(row.name, deque(maxlen=MAX_ENDS))
            ends.append(self._state.dead_since.get(row.member_id, self._state.now))

    def _forget_death(self, row: MemberState) -> None:
        if not row.draining and (ends := self._deaths.get(row.name)):
            ends.pop()

    def forget_old(self) -> None:
        """Drop deaths that are too old to matter."""
        old = self._state.now - 2 * LONGEST_PROBATION
        self._deaths = {name: ends for name, ends in self._deaths.items() if ends and ends[-1] > old}
