"""Hard evidence: a datagram that was refused (ICMP port unreachable) met a kernel without our process.

A refusal of anything we sent to a member starts a verification at once: pings that carry nothing else, each a few
milliseconds (or a round trip, if that is more) after the one before was refused. Only a refusal that quotes such a ping
whole counts as a miss. Nobody who has not seen the ping can make one up: its nonce is random, and under a seal all of
it. A ping is sealed for one instance, so a refusal never speaks of a later life at the same address.

Three such misses make a vote, like any others, and may be held against what was heard *before* the pings: whoever heard
the member within the last period need not wait, but must have been refused itself. Votes go to the member's monitors
and to those whose heartbeats it gets, who verify at once, so two stand some 20 ms after the first refusal. A suspicion
is not pushed before the death: a pool that is all told of it first is busy with that. Refutation is as ever.

Where no second vote can come, because nobody else is left unsuspected or nobody is heard at all, such a vote suffices
alone: kernels that refuse are in reach, so their members are gone and we are not cut off (partition_guard.py). That is
so where most of a pool was killed with its hosts alive.

Where a refusal has lied (a firewall that answers in a host's name), the member is heard again. From then on nobody who
was deceived believes a refusal of that instance for a minute.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.security.seal import DecryptError
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, MemberId

PING_GAP = 0.003
"""Seconds between a refusal and the next ping: a process that binds its port anew gets a chance to."""
TIMEOUT_PERIODS = 2
"""A ping that is neither answered nor refused for so long, and two round trips, ends the verification."""
DISTRUST_SECONDS = 60.0
MAX_VERIFYING = 64
MAX_REMEMBERED = 256


class RefusalCheck:
    """One member's pings, one after the other. Times in seconds."""

    __slots__ = ("began", "count", "datagram", "due", "member_id", "sent")

    def __init__(self, member_id: MemberId, now: float) -> None:
        self.member_id = member_id
        self.began = self.due = now
        """When the next ping leaves; infinite while one is out."""
        self.sent = now
        self.count = 0
        """Pings refused so far."""
        self.datagram = b""


class IcmpEvidence:
    """Hears refusals, verifies, and counts what deserves to be counted."""

    __slots__ = (
        "_checks",
        "_confirmed_at",
        "_distrusted_until",
        "_failure_detector",
        "_partition_guard",
        "_probes",
        "_state",
    )

    def __init__(self, state: NodeState, pings: Probes, detector: FailureDetector, isolation: PartitionGuard) -> None:
        self._state = state
        self._probes = pings
        self._failure_detector = detector
        self._partition_guard = isolation
        self._checks: dict[MemberId, RefusalCheck] = {}
        self._confirmed_at: dict[MemberId, float] = {}
        """When we last held a member's refusals for proof."""
        self._distrusted_until: dict[MemberId, float] = {}
        """Members whose refusals have lied, and until when we remember it."""

    @property
    def deadline(self) -> float:
        return min(v.due for v in self._checks.values()) if self._checks else math.inf

    def on_refusal_untrusted(self, datagram: bytes, address: Address) -> None:
        """A kernel at ``address`` refused what it quotes as a datagram of ours."""
        state = self._state
        state.counters["refusals"] += 1
        row = self._addressee_untrusted(datagram, address)
        if row is None or not state.settings.icmp_evidence:
            state.counters["refusals_unmatched"] += 1
            return
        verification = self._checks.get(row.member_id)
        if verification is None or self._is_finished(verification):
            self.verify(row)
        elif self._quotes_ping(datagram, verification):
            self._count_refusal(row, verification)

    def verify(self, row: MemberState) -> None:
        """Something says that a member's process is gone: ask its kernel, once a period at most."""
        state = self._state
        if not state.settings.icmp_evidence or not row.present or self._can_skip(row.member_id):
            return
        known = self._checks.get(row.member_id)
        if known is not None and not self._is_finished(known):
            return
        if len(self._checks) >= MAX_VERIFYING or not state.throttle(row.member_id, "refused", state.settings.period):
            return
        self._checks[row.member_id] = verification = RefusalCheck(row.member_id, state.now)
        self._send_ping(row, verification)

    def on_vote(self, subject: MemberId) -> None:
        """Somebody votes against a member we watch, or that watches us: see for ourselves now."""
        if self._failure_detector.is_monitor_or_subject(subject) and (row := self._state.table.get(subject)):
            self.verify(row)

    def on_death_claim(self, subject: MemberId) -> None:
        """Somebody claims a death that we do not believe because we have just heard the member, or doubt ourselves."""
        row = self._state.table.get(subject)
        if row is not None and (self._state.heard_lately(subject) or self._partition_guard.is_deferred(subject)):
            self.verify(row)

    def tick(self) -> None:
        """Send the pings that are due, and give up those that nothing came back for."""
        state = self._state
        for verification in list(self._checks.values()):
            row = state.table.get(verification.member_id)
            if row is None or not row.present or self._is_finished(verification):
                del self._checks[verification.member_id]
            elif state.now >= verification.due:
                self._send_ping(row, verification)

    def restart(self) -> None:
        """After a pause of our own a refusal may be as old as the pause: begin anew."""
        self._checks.clear()

    # --- steps

    def _addressee_untrusted(self, datagram: bytes, address: Address) -> MemberState | None:
        """The member a quoted datagram was for, if it is one of ours and the member lives at that address."""
        seal = self._state.seal
        try:
            sender, receiver = seal.parties(datagram)
        except DecryptError:
            return None
        row = self._state.table.get(receiver)
        if sender != seal.member_id or row is None or not row.present or row.address != address:
            return None
        return row

    def _send_ping(self, row: MemberState, verification: RefusalCheck) -> None:
        verification.sent = self._state.now
        verification.due = math.inf
        verification.datagram = self._probes.bare_ping(row)

    def _quotes_ping(self, datagram: bytes, verification: RefusalCheck) -> bool:
        return datagram == verification.datagram

    def _count_refusal(self, row: MemberState, verification: RefusalCheck) -> None:
        """One of the pings was refused: a miss. After the last that is needed there are no more."""
        state = self._state
        verification.count += 1
        verification.datagram = b""
        if verification.count < state.settings.misses:
            round_trip = min(
                self._probes.rtt(row.member_id), state.now - verification.sent
            )  # it was slow while it started
            verification.due = state.now + max(PING_GAP, 1.5 * round_trip)
        else:
            del self._checks[row.member_id]
            self._confirmed_at[row.member_id] = state.now
            _bound(self._confirmed_at)
            state.refused_at[row.member_id] = verification.sent
        self._failure_detector.on_ping_refused(row, verification.sent)

    def _is_finished(self, verification: RefusalCheck) -> bool:
        """The member has shown itself since, or nothing comes back at all."""
        state = self._state
        if state.last_heard.get(verification.member_id, -math.inf) >= verification.began:
            return True
        patience = TIMEOUT_PERIODS * state.settings.period + 2 * self._probes.rtt(verification.member_id)
        return verification.due == math.inf and state.now - verification.sent > patience

    def _can_skip(self, member_id: MemberId) -> bool:
        """Whether asking would tell us nothing: the refusals have convinced us just now, or lied to us once."""
        state = self._state
        convinced = self._confirmed_at.get(member_id)
        if convinced is not None and state.last_heard.get(member_id, -math.inf) > convinced:
            del self._confirmed_at[member_id]
            self._distrusted_until[member_id] = state.now + DISTRUST_SECONDS
            _bound(self._distrusted_until)
            state.counters["refusals_false"] += 1
        elif convinced is not None and state.now - convinced < TIMEOUT_PERIODS * state.settings.period:
            return True
        return state.now < self._distrusted_until.get(member_id, -math.inf)


def _bound(memory: dict[MemberId, float]) -> None:
    while len(memory) > MAX_REMEMBERED:
        del memory[next(iter(memory))]
