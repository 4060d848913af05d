"""Refuting claims about ourselves, and correcting peers whose knowledge is stale.

Only its subject can overturn a verdict, by raising its incarnation (SWIM, section 4.2). A stale claim about anybody is
answered with what we know, at most once a period for each member and peer. So no two members hold each other dead for
ever.
"""

from __future__ import annotations

from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.dissemination.broadcast import Broadcast
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import SyncRequest, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId


class Refutation:
    """Refutes claims about ourselves, and sends peers newer rows than they hold."""

    __slots__ = ("_broadcast", "_partition_guard", "_state")

    def __init__(self, state: NodeState, broadcast: Broadcast, partition_guard: PartitionGuard) -> None:
        self._state = state
        self._broadcast = broadcast
        self._partition_guard = partition_guard

    def refute(self, incarnation: int, sender: MemberState, *, wide: bool) -> None:
        """A peer claims that we are suspect, dead or gone. Raise our incarnation, or show that the claim is old.

        A claim at an incarnation above ours needs no refutation: nobody can hold a record that we have not signed.
        """
        state = self._state
        if state.leaving:
            return
        if incarnation == state.me.incarnation:
            state.raise_incarnation()
            state.counters["refutations"] += 1
            state.record_event(
                "refuted", state.me.name, f"{state.me.name} refuted a claim that {sender.name} passed on"
            )
            self._broadcast.announce(state.me.member_id, wide=wide)
        self._partition_guard.mute_detector.on_accusation(sender, incarnation)
        if not self._partition_guard.outbound_cut:
            self.send_update(state.me, sender)

    def correct_stale(self, heard: MemberState, sender: MemberState) -> None:
        """Send the peer what we hold of this name, where that is newer than the record it sent, or a verdict on it."""
        for held in self._state.table.states_of(heard.name):
            same = held.succession == heard.succession
            later = held.succession > heard.succession or (same and held.incarnation > heard.incarnation)
            worse = same and not held.present and held.incarnation >= heard.incarnation
            if worse or (later and held.pending == heard.pending):
                never_held = held.member_id != heard.member_id  # the peer need not have the row of another instance
                self.send_update(held, sender, by_name=not held.present and never_held)

    def send_update(self, row: MemberState, peer: MemberState, *, by_name: bool = False) -> None:
        """Tell a peer what we know of a member, at most once a period for each member and peer.

        ``by_name`` sends a dead row as a tombstone, which a peer understands that never held the row.
        """
        if self._state.throttle(row.member_id + peer.member_id, "answer", self._state.settings.period):
            encoder = self._broadcast.encoder
            self._state.send_encoded(
                peer, [encode_message(encoder.tombstone(row)) if by_name else encoder.state_of(row)]
            )

    def request_row(self, member_id: MemberId, peer: MemberState) -> None:
        """Ask a peer for a row that it seems to hold, at most once a period."""
        if self._state.throttle(member_id, "want", self._state.settings.period):
            self._state.send(peer, SyncRequest([member_id]))
