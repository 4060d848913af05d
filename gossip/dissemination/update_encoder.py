"""What to say about a member, as an encoded message.

An update is always *about a member* (or a policy, which has an id of the same form). It is made from the row at the
moment of sending. So a broadcast never carries an older account than its sender knows.
"""

from __future__ import annotations

import msgspec

from rumormill.gossip.detection.votes import VoteBook
from rumormill.gossip.state import NodeState
from rumormill.gossip.wire import Dead, Leave, PolicyMessage, SignedVote, Suspect, Tombstone, encode_message
from rumormill.membership.member_state import MemberState
from rumormill.membership.policy import SignedPolicy
from rumormill.membership.record import Liveness, MemberId

MAX_VOTES_TOLD = 3
"""Votes a death is passed on with: the two that suffice, and one for receivers where one of them does not count."""

_ALIVE_HEAD = b"\x93\x10"
"""The head of an encoded Alive message: a msgpack array of three elements, then tag 16."""
_SIGNATURE_HEAD = b"\xc4\x40"
"""The head of its signature: msgpack binary of 64 bytes."""


class UpdateEncoder:
    """Encodes what we hold of members and policies."""

    __slots__ = ("_state", "_votes")

    def __init__(self, state: NodeState, votes: VoteBook) -> None:
        self._state = state
        self._votes = votes

    def update(self, member_id: MemberId) -> bytes | None:
        """What there is to say about a member or a policy now; None if it is not held."""
        row = self._state.table.get(member_id)
        if row is not None:
            return self.state_of(row)
        policy = self._state.table.policies.get(member_id)
        return None if policy is None else self.policy(policy)

    def policy(self, policy: SignedPolicy) -> bytes:
        return encode_message(PolicyMessage(msgspec.Raw(policy.encoded), policy.signature))

    def state_of(self, row: MemberState) -> bytes:
        match row.liveness:
            case Liveness.ALIVE:
                return self.alive(row)
            case Liveness.SUSPECT:
                return encode_message(Suspect(row.member_id, row.incarnation))
            case Liveness.DEAD:
                return self.dead(row)
            case Liveness.LEFT if row.encoded and row.leave_signature:
                return encode_message(Leave(row.member_id, row.incarnation, row.leave_signature))
        return encode_message(self.tombstone(row))

    @staticmethod
    def alive(row: MemberState) -> bytes:
        """A present row's record, also if we suspect the member: a verdict is useless to a peer without the row."""
        return _ALIVE_HEAD + row.encoded + _SIGNATURE_HEAD + row.signature

    def tombstone(self, row: MemberState) -> Tombstone:
        """A dead or departed row in a form that needs no record to be understood."""
        age = self._state.now - self._state.dead_since.get(row.member_id, self._state.now)
        return Tombstone(
            name=row.name,
            generation=row.generation,
            instance=row.instance,
            incarnation=row.incarnation,
            liveness=3 if row.liveness is Liveness.LEFT else 2,
            age=max(0, int(age)),
            leave_signature=row.leave_signature,
        )

    def dead(self, row: MemberState) -> bytes:
        """A death with the votes for it; a tombstone where we hold none."""
        votes = self._signed_votes(row)
        if not votes:
            return encode_message(self.tombstone(row))
        votes.sort(key=lambda vote: (vote.age, vote.voter))
        by_voter = {vote.voter: vote for vote in votes}
        chosen = self._state.voter_eligibility.quorum_first(list(by_voter), MAX_VOTES_TOLD)
        return encode_message(Dead(row.member_id, row.incarnation, [by_voter[voter] for voter in chosen]))

    def _signed_votes(self, row: MemberState) -> list[SignedVote]:
        now = self._state.now
        return [
            SignedVote(vote.voter, vote.stamp, max(0, int((now - vote.cast) * 1000)), vote.signature)
            for vote in self._votes.all_votes(row.member_id)
            if vote.incarnation == row.incarnation
        ]
