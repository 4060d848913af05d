"""Carries what one part reports to the other parts that depend on it."""

from __future__ import annotations

from rumormill.gossip.effects import Effects
from rumormill.gossip.parts import Parts
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.table import MemberChange


class Coordinator(Effects):
    """The effects of one node's parts on each other. See :class:`~rumormill.gossip.effects.Effects`."""

    __slots__ = ("_parts", "_state")

    def __init__(self, state: NodeState, parts: Parts) -> None:
        self._state = state
        self._parts = parts

    def table_changed(self, change: MemberChange) -> None:
        state, parts, after = self._state, self._parts, change.after
        self.own_record_changed()
        parts.flap_damping.note_change(change)
        self._note_joined()
        if change.before is not None and not change.same_instance:
            parts.probes.forget(change.before.member_id)
        if after is None:
            return
        if after.name == state.me.name:
            if not state.leaving:
                parts.own_name.reconcile()
        elif after.pending and (incumbent := state.table.settled.get(after.name)) and incumbent.present:
            parts.failure_detector.ping_if_monitored(incumbent)

    def _note_joined(self) -> None:
        state, parts = self._state, self._parts
        if not parts.join.joined and len(state.table) > 1:
            parts.join.joined = True
            state.last_heard_anyone = state.now
            parts.anti_entropy.begin_bootstrap()

    def monitoring_outdated(self) -> None:
        self._parts.failure_detector.reassignment_due = True

    def own_record_changed(self) -> None:
        self.monitoring_outdated()
        self._parts.anti_entropy.table_changed()

    def instance_cloned(self) -> None:
        self._state.counters["clones"] += 1
        self._parts.own_name.rekey()

    def name_contested(self, rival: MemberState, witness: MemberState | None) -> bool:
        return self._parts.own_name.should_yield(rival, witness)

    def connectivity_changed(self) -> None:
        if not self._state.isolated:
            self.connectivity_restored()
        elif self._parts.partition_guard.inbound_cut:
            self._parts.eviction.suspect_everyone()
        self.monitoring_outdated()

    def connectivity_restored(self) -> None:
        """Withdraw the suspicions that we never spread, and begin monitoring anew, as after a pause."""
        state, parts = self._state, self._parts
        guard = parts.partition_guard
        parts.votes.clear_all()
        state.last_heard_anyone = state.now
        for member_id in list(guard.local_suspicions):
            missing_since = guard.missing_since(member_id)
            if parts.table_changes.withdraw_suspicion(member_id):
                guard.on_suspicion_withdrawn(member_id, missing_since)
        guard.local_suspicions.clear()
        parts.failure_detector.restart()
        self.monitoring_outdated()
