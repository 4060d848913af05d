"""A read-only look inside a node, for the simulator's invariants, the bench and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rumormill.gossip.detection.votes import Vote
from rumormill.gossip.parts import Parts
from rumormill.gossip.settings import ProtocolSettings
from rumormill.gossip.state import NodeState
from rumormill.membership.load import Load
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId
from rumormill.membership.table import MemberTable


class NodeInspection:
    """The present state of one node. It changes with the node; nothing here changes the node."""

    __slots__ = ("_parts", "_state")

    def __init__(self, state: NodeState, parts: Parts) -> None:
        self._state = state
        self._parts = parts

    @property
    def me(self) -> MemberState:
        """The node's own row."""
        return self._state.me

    @property
    def cluster(self) -> str:
        return self._state.cluster

    @property
    def now(self) -> float:
        """Seconds on the node's clock."""
        return self._state.now

    @property
    def settings(self) -> ProtocolSettings:
        return self._state.settings

    @property
    def table(self) -> MemberTable:
        """All rows held, to be read only."""
        return self._state.table

    @property
    def own_load(self) -> Load | None:
        """The node's own figure, as it last announced it."""
        return self._state.own_load.figure

    @property
    def loads(self) -> Mapping[MemberId, Load]:
        """The figures that it holds of others."""
        return self._state.loads.figures

    @property
    def seal_label(self) -> bytes:
        """The hash of the cluster label that every datagram carries."""
        return self._state.seal.label

    @property
    def may_evict_alone(self) -> bool:
        """Whether it has been isolated for so long that its own vote suffices."""
        return self._parts.partition_guard.may_evict_alone

    @property
    def removed_keys(self) -> tuple[bytes, ...]:
        """Group keys that were just removed and still open what was sealed before."""
        return self._parts.key_rotation.removed_keys

    @property
    def digests_differ_for(self) -> float:
        """For how many seconds some member's table has differed from ours, by its digest; 0 if none does."""
        return self._parts.anti_entropy.differs_for

    def can_open(self, member_id: MemberId) -> bool:
        """Whether it can open what this member seals."""
        if member_id in self._state.seal.peers:
            return True
        row = self._state.table.get(member_id)
        return row is not None and row.record is not None

    def dead_since(self, member_id: MemberId) -> float:
        """When the member died or left, as known here; now if it did neither."""
        return self._state.dead_since.get(member_id, self._state.now)

    def votes_on(self, member_id: MemberId) -> Iterable[Vote]:
        """All votes held on a member, valid or not."""
        return self._parts.votes.all_votes(member_id)
