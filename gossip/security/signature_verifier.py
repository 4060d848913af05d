"""Checking signatures at a bounded cost.

A check takes about 0.1 ms, thirty times as long as a datagram. So we check only what would change something here. What
we know already is recognized by its bytes. We make at most 32 checks in a turn, and the rest waits until the timers
have run. A peer that passed on one bad signature is misbehaving: for a while nothing it brings is checked or believed.
Members check before they pass anything on, so this never hits an honest one. We open only fifty datagrams a second from
a misbehaving member: a flood of bad signatures costs less than the flood itself (`python -m bench floods`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from rumormill.gossip.security.credentials import Authority, leave_text, signed_by, verify_record, vote_text
from rumormill.gossip.wire import SignedVote
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId, Signature

MAX_CHECKS_PER_TURN = 32
"""Checks between two runs of the timers: some 3 ms."""
MISBEHAVING_SECONDS = 10.0
MAX_MISBEHAVING = 1024
MISBEHAVING_GAP, MISBEHAVING_BURST = 0.02, 1.0
"""Seconds between the datagrams that are still opened from a misbehaving member, and how many seconds' worth may come
at once. That is enough for the heartbeats and acks of an honest member with a fault."""


class MisbehavingPeer:
    """A peer that passed on a bad signature. Times in seconds."""

    __slots__ = ("due", "until")

    def __init__(self, now: float) -> None:
        self.until = now + MISBEHAVING_SECONDS
        self.due = now
        """Until when its allowance of datagrams is used up."""

    def is_distrusted(self, now: float) -> bool:
        """Whether it still counts as misbehaving."""
        return now < self.until


class SignatureVerifier:
    """Checks whether a record, a departure or a vote was signed by its author."""

    __slots__ = ("_authority", "_counters", "_label", "_on_stranger", "checks_left", "misbehaving")

    def __init__(
        self,
        label: bytes,
        authority: Authority | None,
        counters: Counter[str],
        on_stranger: Callable[[MemberState], None],
    ) -> None:
        """``on_stranger`` is called with each record that the authority does not certify."""
        self._label = label
        self._authority = authority
        self._counters = counters
        self._on_stranger = on_stranger
        self.checks_left = MAX_CHECKS_PER_TURN
        """Checks that may still be made in this turn."""
        self.misbehaving: dict[Hashable, MisbehavingPeer] = {}
        """Peers that passed on bad signatures."""

    def check_record(self, row: MemberState, source: Hashable, now: float) -> bool:
        """Whether a record was signed by its subject, and where there is an authority, whether it issued the name.

        ``source`` is who brought it: a member's id, or the address of a stranger.
        """
        authority = self._authority
        if authority is not None and row.record is not None and not row.record.certificate:
            self._counters["uncertified"] += 1  # nothing to check, so nobody misbehaves
            self._on_stranger(row)
            return False
        if not self._may_check(source, now):
            return False
        good = verify_record(row, self._label, authority)
        if not good and authority is not None and row.record is not None and not authority.certifies(row.record):
            self._counters["uncertified"] += 1
            self._on_stranger(row)
        return self._note_result(good, source, now)

    def check_leave(
        self, row: MemberState, incarnation: int, signature: Signature, source: Hashable, now: float
    ) -> bool:
        """Whether the subject of a row signed that it leaves."""
        if not self._may_check(source, now):
            return False
        good = signed_by(row, signature, leave_text(self._label, row.instance, incarnation))
        return self._note_result(good, source, now)

    def check_vote(
        self, voter: MemberState, subject: MemberState, incarnation: int, vote: SignedVote, source: Hashable, now: float
    ) -> bool:
        """Whether the voter signed this vote."""
        if not self._may_check(source, now):
            return False
        text = vote_text(self._label, voter.instance, subject.instance, incarnation, vote.stamp)
        return self._note_result(signed_by(voter, vote.signature, text), source, now)

    def accepts_datagram_from(self, member_id: MemberId, now: float) -> bool:
        """Whether to open a datagram that claims to come from this member, which may be misbehaving.

        A forged claim only uses up the allowance of a misbehaving member, and silences nobody else.
        """
        peer = self.misbehaving.get(member_id)
        if peer is None or not peer.is_distrusted(now):
            return True
        due = max(peer.due, now)
        if due - now > MISBEHAVING_BURST:
            return False
        peer.due = due + MISBEHAVING_GAP
        return True

    def _may_check(self, source: Hashable, now: float) -> bool:
        peer = self.misbehaving.get(source)
        if peer is not None and peer.is_distrusted(now):
            self._counters["unchecked_signatures"] += 1
            return False
        self.checks_left -= 1
        self._counters["checked_signatures"] += 1
        return True

    def _note_result(self, good: bool, source: Hashable, now: float) -> bool:
        if not good:
            self._counters["bad_signatures"] += 1
            if len(self.misbehaving) >= MAX_MISBEHAVING:
                del self.misbehaving[next(iter(self.misbehaving))]
            self.misbehaving[source] = MisbehavingPeer(now)
        return good
