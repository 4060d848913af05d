"""ICMP evidence: a refused datagram (ICMP port unreachable) reached a kernel on which our peer's process is gone.

A refusal of any datagram that we sent to a member starts a check at once: bare pings, each sent a few milliseconds (or
a round trip, if that is longer) after the previous one was refused. A refusal counts as a miss only if it quotes such a
ping in full. Nobody can forge one without having seen the ping: its nonce is random, and if sealed, all of it looks
random. A ping is sealed for one instance, so a refusal says nothing about a later instance at the same address.

Three such misses make a vote, like any others. The vote may overrule what was heard *before* the pings: a member that
heard the subject within the last period need not wait, if it was itself refused. Votes go to the subject's monitors and
to the members that it monitors. These start a check of their own at once, so two votes exist some 20 ms after the first
refusal. The suspicion is not broadcast before the death: that would keep a whole pool busy. The member can refute as
always.

Our vote alone suffices where no second vote can come, because every other member is suspect or none is heard at all.
Kernels that refuse are within reach, so their members are gone and we are not cut off (partition_guard.py). This is the
case where most of a pool was killed while its hosts stayed up.

A refusal can lie: a firewall may answer in a host's name. Then the member is heard again, and each observer that was
deceived ignores refusals of that instance for a minute.
"""

from __future__ import annotations

import math

from rumormill.gossip.detection.failure_detector import FailureDetector
from rumormill.gossip.detection.partition_guard import PartitionGuard
from rumormill.gossip.detection.probes import Probes
from rumormill.gossip.part import Part
from rumormill.gossip.security.seal import DecryptError
from rumormill.gossip.state import NodeState
from rumormill.membership.member_state import MemberState
from rumormill.membership.record import Address, MemberId

PING_GAP = 0.003
"""Seconds between a refusal and the next ping. A process that is binding its port anew gets a chance to do so."""
TIMEOUT_PERIODS = 2
"""A check ends if its ping is neither answered nor refused for this many periods and two round trips."""
DISTRUST_SECONDS = 60.0
MAX_CHECKS = 64
MAX_REMEMBERED = 256


class RefusalCheck:
    """The check of one member: one ping after another. Times in seconds."""

    __slots__ = ("began", "datagram", "member_id", "next_ping", "refusals", "sent")

    def __init__(self, member_id: MemberId, now: float) -> None:
        self.member_id = member_id
        self.began = self.next_ping = now
        """When the next ping leaves. Infinite while one is outstanding."""
        self.sent = now
        """When the last ping left."""
        self.refusals = 0
        self.datagram = b""
        """The outstanding ping."""


class IcmpEvidence(Part):
    """Receives refusals, checks them with pings, and counts misses."""

    __slots__ = (
        "_checks",
        "_confirmed_at",
        "_distrusted_until",
        "_failure_detector",
        "_partition_guard",
        "_probes",
        "_state",
    )

    def __init__(
        self,
        state: NodeState,
        probes: Probes,
        failure_detector: FailureDetector,
        partition_guard: PartitionGuard,
    ) -> None:
        self._state = state
        self._probes = probes
        self._failure_detector = failure_detector
        self._partition_guard = partition_guard
        self._checks: dict[MemberId, RefusalCheck] = {}
        self._confirmed_at: dict[MemberId, float] = {}
        """When a check last confirmed that a member's process is gone."""
        self._distrusted_until: dict[MemberId, float] = {}
        """Until when the refusals of members that turned out to live are ignored."""

    @property
    def deadline(self) -> float:
        return min(check.next_ping for check in self._checks.values()) if self._checks else math.inf

    def on_refusal_untrusted(self, datagram: bytes, address: Address) -> None:
        """A kernel at ``address`` refused a datagram that it quotes as one of ours."""
        state = self._state
        state.counters["refusals"] += 1
        row = self._addressee_untrusted(datagram, address)
        if row is None or not state.settings.icmp_evidence:
            state.counters["refusals_unmatched"] += 1
            return
        check = self._checks.get(row.member_id)
        if check is None or self._is_finished(check):
            self.verify(row)
        elif self._quotes_ping(datagram, check):
            self._count_refusal(row, check)

    def on_vote(self, subject: MemberId) -> None:
        """A peer votes against a member that we monitor or that monitors us: check for ourselves."""
        if self._failure_detector.is_monitor_or_subject(subject) and (row := self._state.table.get(subject)):
            self.verify(row)

    def on_death_claim(self, subject: MemberId) -> None:
        """A peer claims a death that we do not believe, because we just heard the member or because we may be cut
        off ourselves: check it."""
        row = self._state.table.get(subject)
        if row is not None and (self._state.heard_lately(subject) or self._partition_guard.is_deferred(subject)):
            self.verify(row)

    def verify(self, row: MemberState) -> None:
        """Something suggests that a member's process is gone: ask its kernel, at most once a period."""
        state = self._state
        if not state.settings.icmp_evidence or not row.present or self._can_skip(row.member_id):
            return
        known = self._checks.get(row.member_id)
        if known is not None and not self._is_finished(known):
            return
        if len(self._checks) >= MAX_CHECKS or not state.throttle(row.member_id, "refused", state.settings.period):
            return
        self._checks[row.member_id] = check = RefusalCheck(row.member_id, state.now)
        self._send_ping(row, check)

    def tick(self) -> None:
        """Send the pings that are due, and drop the checks that are finished."""
        state = self._state
        for check in list(self._checks.values()):
            row = state.table.get(check.member_id)
            if row is None or not row.present or self._is_finished(check):
                del self._checks[check.member_id]
            elif state.now >= check.next_ping:
                self._send_ping(row, check)

    def restart(self) -> None:
        """After a pause of our own: a refusal may be as old as the pause, so all checks are dropped."""
        self._checks.clear()

    # --- steps

    def _addressee_untrusted(self, datagram: bytes, address: Address) -> MemberState | None:
        """The member that a quoted datagram was for, if the datagram is ours and the member lives at that address."""
        seal = self._state.seal
        try:
            sender, receiver = seal.claimed_ids(datagram)
        except DecryptError:
            return None
        row = self._state.table.get(receiver)
        if sender != seal.member_id or row is None or not row.present or row.address != address:
            return None
        return row

    def _send_ping(self, row: MemberState, check: RefusalCheck) -> None:
        check.sent = self._state.now
        check.next_ping = math.inf
        check.datagram = self._probes.bare_ping(row)

    def _quotes_ping(self, datagram: bytes, check: RefusalCheck) -> bool:
        return datagram == check.datagram

    def _count_refusal(self, row: MemberState, check: RefusalCheck) -> None:
        """One of the pings was refused: a miss. The last miss that a vote needs ends the check."""
        state = self._state
        check.refusals += 1
        check.datagram = b""
        if check.refusals < state.settings.misses:
            # The measured round trip may be too long: the process may have been slow while it started.
            round_trip = min(self._probes.rtt(row.member_id), state.now - check.sent)
            check.next_ping = state.now + max(PING_GAP, 1.5 * round_trip)
        else:
            self._confirm(check)
        self._failure_detector.on_ping_refused(row, check.sent)

    def _confirm(self, check: RefusalCheck) -> None:
        """The member's process is gone, as far as its kernel can say."""
        del self._checks[check.member_id]
        self._confirmed_at[check.member_id] = self._state.now
        _drop_oldest(self._confirmed_at)
        self._state.refused_at[check.member_id] = check.sent

    def _is_finished(self, check: RefusalCheck) -> bool:
        """Whether the member was heard since the check began, or no answer of any kind comes."""
        state = self._state
        if state.last_heard.get(check.member_id, -math.inf) >= check.began:
            return True
        timeout = TIMEOUT_PERIODS * state.settings.period + 2 * self._probes.rtt(check.member_id)
        return check.next_ping == math.inf and state.now - check.sent > timeout

    def _can_skip(self, member_id: MemberId) -> bool:
        """Whether a check would tell us nothing new: one has just confirmed the death, or was wrong before."""
        state = self._state
        confirmed = self._confirmed_at.get(member_id)
        if confirmed is not None and state.last_heard.get(member_id, -math.inf) > confirmed:
            self._distrust(member_id)
        elif confirmed is not None and state.now - confirmed < TIMEOUT_PERIODS * state.settings.period:
            return True
        return state.now < self._distrusted_until.get(member_id, -math.inf)

    def _distrust(self, member_id: MemberId) -> None:
        """The member was heard after its death was confirmed: the refusals were false."""
        del self._confirmed_at[member_id]
        self._distrusted_until[member_id] = self._state.now + DISTRUST_SECONDS
        _drop_oldest(self._distrusted_until)
        self._state.counters["refusals_false"] += 1


def _drop_oldest(times: dict[MemberId, float]) -> None:
    while len(times) > MAX_REMEMBERED:
        del times[next(iter(times))]
