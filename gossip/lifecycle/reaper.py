"""Periodic cleanup: retrying dead members, and forgetting expired tombstones.

One dead member is retried at a time. That is how the two sides of a healed partition find each other.
"""

from __future__ import annotations

from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.lifecycle.flap_damping import FlapDamping
from rumormill.gossip.lifecycle.own_name import OwnName
from rumormill.gossip.part import Part
from rumormill.gossip.security.seal import RENEW_COUNTER
from rumormill.gossip.state import NodeState
from rumormill.membership.record import Liveness

SWEEP_INTERVAL = 10.0
"""Seconds between two sweeps over the tombstones."""


class Reaper(Part):
    """Retries dead members, and forgets what has expired."""

    __slots__ = (
        "_flap_damping",
        "_next_retry",
        "_next_sweep",
        "_own_name",
        "_probes",
        "_state",
        "_votes",
        "lazy_deadline",
    )

    lazy_deadline: float

    def __init__(
        self, state: NodeState, votes: VoteBook, probes: Probes, own_name: OwnName, flap_damping: FlapDamping
    ) -> None:
        self._state = state
        self._votes = votes
        self._probes = probes
        self._own_name = own_name
        self._flap_damping = flap_damping
        self.restart()

    def restart(self) -> None:
        """After a pause of our own, both timers start anew."""
        state = self._state
        self._next_sweep = state.now + SWEEP_INTERVAL
        self._next_retry = state.now + state.settings.dead_retry
        self.lazy_deadline = min(self._next_sweep, self._next_retry)

    def tick(self) -> None:
        now = self._state.now
        if now >= self._next_retry:
            self._retry_dead()
        if now >= self._next_sweep:
            self._sweep()
        self.lazy_deadline = min(self._next_sweep, self._next_retry)

    def _retry_dead(self) -> None:
        state = self._state
        self._next_retry = state.now + state.settings.dead_retry * (0.75 + 0.5 * state.rng.random())
        rows = (state.table.get(member_id) for member_id in state.table.tombstones)
        dead = [row for row in rows if row is not None and row.liveness is Liveness.DEAD and row.address]
        if dead:
            self._probes.ping(state.rng.choice(dead))

    def _sweep(self) -> None:
        """Forget tombstones and what is remembered of them, and when superseded instances were heard; take new keys
        before the old ones have sealed too much."""
        state = self._state
        if state.seal.counter >= RENEW_COUNTER:
            self._own_name.renew_keys()
        self._next_sweep = state.now + SWEEP_INTERVAL
        self._flap_damping.forget_old()
        for member_id in list(state.table.tombstones):
            if state.now - state.dead_since.get(member_id, state.now) < state.settings.tombstone_life:
                continue
            state.table.forget(member_id)
            state.seal.forget(member_id)
            for memory in state.per_member_maps():
                memory.pop(member_id, None)
            self._votes.clear(member_id)
            self._probes.forget(member_id)
        for member_id in [
            member_id
            for member_id in state.last_heard
            if state.table.get(member_id) is None and not state.heard_lately(member_id)
        ]:
            del state.last_heard[member_id]
