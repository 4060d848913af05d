"""Checking what others signed, at a bounded cost.

A check takes about 0.1 ms, thirty times a datagram. So only what would change something here is checked (what is known
already is told by its bytes); at most 32 checks are made at a stretch, and what comes beyond waits until timers have
been served; and whoever passed on one bad signature is not checked again for a while, but taken for what it is. Members
check before they pass anything on, so nobody honest is ever caught by this. Of a member so found out only fifty
datagrams a second are opened: a flood of bad signatures costs less than the flood (`python -m bench floods`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from rumormill.gossip.security.credentials import Authority, leave_text, signed_by, verify_record, vote_text
from rumormill.gossip.wire import SignedVote
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import MemberId, Signature

MAX_CHECKS_PER_TURN = 32
"""Checks between two servings of the timers: some 3 ms."""
DISTRUST_SECONDS = 10.0
MAX_DISTRUSTED = 1024
MISBEHAVING_GAP, MISBEHAVING_BURST = 0.02, 1.0
"""Seconds between the datagrams that are still opened of a member who passed on a bad signature, and how many seconds'
worth may come at once: heartbeats and acks, and what else an honest member with a fault has to say."""


class MisbehavingPeer:
    """Somebody who passed on a bad signature. Times in seconds."""

    __slots__ = ("due", "until")

    def __init__(self, now: float) -> None:
        self.until = now + DISTRUST_SECONDS
        self.due = now
        """How far what was opened since has used up its allowance."""

    def is_distrusted(self, now: float) -> bool:
        """Whether it still is."""
        return now < self.until


class SignatureVerifier:
    """Says whether a record, a departure or a vote is its subject's own."""

    __slots__ = ("_authority", "_counters", "_label", "_on_stranger", "checks_left", "misbehaving")

    def __init__(
        self,
        label: bytes,
        authority: Authority | None,
        counters: Counter[str],
        on_stranger: Callable[[MemberState], None],
    ) -> None:
        """``on_stranger`` is told of each record that the authority does not vouch for."""
        self._label = label
        self._authority = authority
        self._counters = counters
        self._on_stranger = on_stranger
        self.checks_left = MAX_CHECKS_PER_TURN
        """Checks that may still be made at this stretch."""
        self.misbehaving: dict[Hashable, MisbehavingPeer] = {}
        """Who passed on bad signatures."""

    def check_record(self, row: MemberState, bearer: Hashable, now: float) -> bool:
        """Whether a record was signed by its subject, under a name that was issued to it where names are issued.

        ``bearer`` is who brought it: a half, or the address of a stranger.
        """
        authority = self._authority
        if authority is not None and row.record is not None and not row.record.certificate:
            self._counters["uncertified"] += 1  # nothing to check, so nothing to distrust anybody for
            self._on_stranger(row)
            return False
        if not self._may_check(bearer, now):
            return False
        good = verify_record(row, self._label, authority)
        if not good and authority is not None and row.record is not None and not authority.certifies(row.record):
            self._counters["uncertified"] += 1
            self._on_stranger(row)
        return self._judge(good, bearer, now)

    def check_leave(
        self, row: MemberState, incarnation: int, signature: Signature, bearer: Hashable, now: float
    ) -> bool:
        """Whether the subject of a row said that it leaves."""
        if not self._may_check(bearer, now):
            return False
        good = signed_by(row, signature, leave_text(self._label, row.instance, incarnation))
        return self._judge(good, bearer, now)

    def check_vote(
        self, voter: MemberState, subject: MemberState, incarnation: int, vote: SignedVote, bearer: Hashable, now: float
    ) -> bool:
        """Whether a member cast this vote."""
        if not self._may_check(bearer, now):
            return False
        text = vote_text(self._label, voter.instance, subject.instance, incarnation, vote.stamp)
        return self._judge(signed_by(voter, vote.signature, text), bearer, now)

    def accepts_datagram_from(self, member_id: MemberId, now: float) -> bool:
        """Whether a datagram that claims to be from this member is to be opened, as far as signatures are concerned.

        Who makes up such a claim uses up what is still heard of a peer, and silences nobody else.
        """
        peer = self.misbehaving.get(member_id)
        if peer is None or not peer.is_distrusted(now):
            return True
        due = max(peer.due, now)
        if due - now > MISBEHAVING_BURST:
            return False
        peer.due = due + MISBEHAVING_GAP
        return True

    def _may_check(self, bearer: Hashable, now: float) -> bool:
        peer = self.misbehaving.get(bearer)
        if peer is not None and peer.is_distrusted(now):
            self._counters["unchecked_signatures"] += 1
            return False
        self.checks_left -= 1
        self._counters["checked_signatures"] += 1
        return True

    def _judge(self, good: bool, bearer: Hashable, now: float) -> bool:
        if not good:
            self._counters["bad_signatures"] += 1
            if len(self.misbehaving) >= MAX_DISTRUSTED:
                del self.misbehaving[next(iter(self.misbehaving))]
            self.misbehaving[bearer] = MisbehavingPeer(now)
        return good
